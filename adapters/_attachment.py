"""The handle that `attach` returns: what it did to a model, the knobs of what is attached, and the way back."""

from __future__ import annotations

import dataclasses
import math
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from enum import Enum
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from adapters._base import BaseState
from adapters._bases import BasisCache
from adapters._cache import Cache
from adapters._contract import Config, Variant
from adapters._errors import AdapterError, problem
from adapters._idle import IdleSites
from adapters._registry import VARIANTS, field_names
from adapters._weights import is_linear, layer_shape
from adapters._wrappers import bare, named_parameters

HANDLE = "_adapters_attachment"  # attribute of the (bare) model while something is attached


class Attachment:
    """What is attached to a model. Also a context manager: detached at the end of the block.

    sites: module name → the variant's instance on that layer. clamped: module name → rank used, where `r` was larger
    than the layer allows (the scale s is as configured). coeff: strength of every site; settable, 0 is off.
    calibration_sha256: of the batches that bases or initial values were computed from; None where none were used.
    """

    def __init__(self, model: nn.Module, cfg: Config, variant: type[Variant]) -> None:
        self.model, self.variant = bare(model), variant
        self.cfg: Any = cfg
        self.sites: dict[str, Variant] = {}
        self.clamped: dict[str, int] = {}
        self.calibration_sha256: str | None = None
        self.basis_cache: BasisCache | None = None
        self.base = BaseState(self.model, weights=variant.trains_base)
        # Partials, no closures: a deep copy of the model undoes itself.
        self.undo_steps: list[Callable[[], object]] = [self.base.restore]
        self.idle = IdleSites()
        self._frozen = self._disabled = 0  # depth of blocks
        self._step_hook: RemovableHandle | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy of the model is outside the blocks its original is in."""
        return vars(self) | {"_step_hook": None, "_frozen": 0, "_disabled": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.watch_optimizers()

    def __repr__(self) -> str:
        if not self.is_attached:
            return f"<{self.variant.name}, detached>"
        count, base = sum(p.numel() for p in self.trainable().values()), _base_size(self)
        where = "all weights" if self.variant.trains_base else f"{len(self.sites)} layers"
        share = f"{100 * count / base:.3g} % of the model"
        return f"<{self.variant.name}{self._fields()}: {where}, {count:,} parameters, {share}>"

    def _fields(self) -> str:
        """The variant's own config fields as they are now, `targets`, and other common ones that were set."""
        if not self.sites:
            return ""
        common, default = {f.name for f in dataclasses.fields(Config)}, type(self.cfg)()
        names = [f.name for f in dataclasses.fields(self.cfg)]
        names.sort(key=lambda n: n in common)  # the variant's own first
        values = {n: self.coeff if n == "coeff" else getattr(self.cfg, n) for n in names}
        shown = {n: v for n, v in values.items() if n not in common or n == "targets" or v != getattr(default, n)}
        return "".join(f" {n}={v.value if isinstance(v, Enum) else v}" for n, v in shown.items())

    @property
    def is_disabled(self) -> bool:
        """Inside a `disabled()` block."""
        return self._disabled > 0

    @property
    def is_attached(self) -> bool:
        return getattr(self.model, HANDLE, None) is self

    # -- the knobs -----------------------------------------------------------------------------------------------------
    @property
    def coeff(self) -> float:
        if "coeff" not in field_names(self.cfg):
            names = ", ".join(n for n, v in VARIANTS.items() if "coeff" in field_names(v.Config()))
            remedy = "`with handle.disabled():` turns any variant off."
            raise AdapterError(problem(self.variant.name, "has no coeff", expected=f"one of {names}", remedy=remedy))
        self._refuse_detached()
        return next(iter(self.sites.values())).coeff

    @coeff.setter
    def coeff(self, value: float) -> None:
        _ = self.coeff  # raises for variants without one
        dataclasses.replace(self.cfg, coeff=value)  # validates
        for site in self.sites.values():
            site.coeff = float(value)
        self.refresh()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """For evaluation: grad-free forwards keep what does not depend on the input, and run faster.

        Outside such a block every forward computes everything from the present parameters. Inside, changes by an
        optimizer, an in-place operation, `load_state_dict`, another tensor (`p.data = …`) or `coeff` are noticed;
        after an in-place write through `.data` (`p.data.copy_(average)`) call `refresh()`. Forwards with gradients and
        compiled forwards neither read nor keep anything, so training in the block is right, and no faster. Blocks
        nest; the end of the outermost drops what was kept.
        """
        sites = list(self.sites.values())
        for site in sites:
            site.cache = site.cache or Cache(site.layer)
        self._frozen += 1
        hook = register_optimizer_step_post_hook(lambda *_: self.refresh())  # fused steps move no version
        try:
            yield
        finally:
            hook.remove()
            self._frozen -= 1
            for site in sites if not self._frozen else ():
                site.cache = None

    def refresh(self) -> None:
        """Drops all that `frozen()` keeps; the next forward computes it again."""
        for site in self.sites.values():
            site.drop_cache()

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base model for a block: the hooks do nothing, and `full` puts the original weights and buffers back.

        Blocks nest; an exception ends them as well.
        """
        sites = list(self.sites.values())
        weights = self.base.put_back() if self.variant.trains_base and not self._disabled else nullcontext()
        self._disabled += 1
        for site in sites:
            site.enabled = False
        try:
            with weights:
                yield
        finally:
            self._disabled -= 1
            for site in sites if not self._disabled else ():
                site.enabled = True

    # -- what is attached, and the way back ----------------------------------------------------------------------------
    def trainable(self) -> dict[str, nn.Parameter]:
        """Trainable tensors by name: `<layer>.lora_*` (tied ones once), or for `full` every base parameter."""
        if self.variant.trains_base:
            return named_parameters(self.model)
        owners = {n: site for n, site in self.sites.items() if site.owner is site}
        return {f"{n}.{k}": p for n, site in owners.items() for k, p in site.parameters().items()}

    def detach(self) -> None:
        """Restores the model bit for bit. Raises AdapterError when this is not what is attached to it."""
        self._refuse_detached()
        self.undo()
        reset_compiled()

    def _refuse_detached(self) -> None:
        if not self.is_attached:
            raise AdapterError(problem(type(self.model).__name__, "this adapter is not attached to the model"))

    def undo(self) -> None:
        """Takes back what `attach` did so far, last things first; a step that fails does not keep the others back."""
        steps, self.undo_steps = self.undo_steps, []
        with ExitStack() as stack:
            stack.callback(self.sites.clear)
            if self._step_hook is not None:
                stack.callback(self._step_hook.remove)
            for step in steps:
                stack.callback(step)

    def watch_optimizers(self) -> None:
        """After every optimizer step: puts constrained parameters back into range, names layers without a gradient."""
        if not self.sites:
            return
        handle = weakref.ref(self)  # the hook is torch's, of all optimizers: it must not keep a dropped model alive

        def after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            if (live := handle()) is not None:
                live.idle.after_step(live.sites, optimizer)
                for site in live.sites.values():
                    site.project()

        hook = register_optimizer_step_post_hook(after_step)
        weakref.finalize(self, hook.remove).atexit = False  # and goes when the model goes
        self._step_hook = hook

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.is_attached:
            self.detach()


def attachment(model: nn.Module) -> Attachment:
    """The model's Attachment. Raises AdapterError when nothing is attached."""
    handle: Attachment | None = getattr(bare(model), HANDLE, None)
    if handle is None:
        raise AdapterError(problem(type(model).__name__, "nothing is attached to this model"))
    return handle


def reset_compiled() -> None:
    """Makes torch.compile trace again: a compiled model keeps the hooks that it was traced with."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def _base_size(handle: Attachment) -> int:
    """Parameters of the base model; a quantized layer counts the weights it stands for."""
    ours = {id(p) for site in handle.sites.values() for p in site.parameters().values()}
    weights = {id(m.weight): math.prod(layer_shape(m)) for m in handle.model.modules() if is_linear(m)}
    size = sum(weights.get(id(p), p.numel()) for p in handle.model.parameters() if id(p) not in ours)
    return max(size, 1)
