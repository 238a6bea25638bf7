"""Names adapted layers that take part in nothing: never called, or called and without any gradient."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch

from adapters._contract import Variant

log = logging.getLogger("adapters")


class IdleSites:
    """Looks once after the model's first forward pass, and once at the first optimizer step; warns in one line each."""

    def __init__(self) -> None:
        self.ran = self.stepped = False
        self.named: set[str] = set()

    def after_forward(self, sites: Mapping[str, Variant]) -> None:
        """Warns of layers that no forward pass has called so far."""
        if self.ran:
            return
        self.ran = True
        self._warn([n for n, s in sites.items() if not s.called], "not called in the model's first forward pass")

    def after_step(self, sites: Mapping[str, Variant], optimizer: torch.optim.Optimizer) -> None:
        """Warns of layers whose tensors the optimizer holds and that have no gradient, while others have one.

        Also in compiled models, and where a training path reads weights of layers that evaluation calls.
        """
        if self.stepped:
            return
        held = {id(p) for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
        trained = {}
        for name, site in sites.items():
            if own := [p for p in site.parameters().values() if id(p) in held]:
                trained[name] = any(p.grad is not None for p in own)
        if any(trained.values()):
            self.stepped = True
            self._warn([n for n, has in trained.items() if not has], "without a gradient in the first optimizer step")

    def _warn(self, names: list[str], what: str) -> None:
        new = [n for n in names if n not in self.named]
        self.named.update(new)
        if new:
            log.warning("adapted layers %s; they train only if something calls them: %s", what, ", ".join(new))


class FirstForward:
    """Forward hook of the whole model (a class, so that copy.deepcopy carries the sites along)."""

    def __init__(self, idle: IdleSites, sites: Mapping[str, Variant]) -> None:
        self.idle, self.sites = idle, sites

    def __call__(self, *_: object) -> None:
        if not torch.compiler.is_compiling():
            self.idle.after_forward(self.sites)
