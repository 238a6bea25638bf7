"""Checks that a run was sound: identity at the start, every tensor trained, the base model untouched."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

import adapters as ad

MOVES_AFTER = 20  # steps after which every trainable tensor must have moved


def base_sha256(model: nn.Module) -> str:
    """SHA-256 over names and bytes of everything in the state dict that is not the adapter's."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor) and not name.rsplit(".", 1)[-1].startswith("lora_"):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def logits(model: Any, ids: Tensor) -> Tensor:
    out: Tensor = model(input_ids=ids, use_cache=False).logits
    return out


class Health:
    """Collects the facts around one run; `report` gives the record's `health`."""

    def __init__(self, model: Any, ids: Tensor) -> None:
        """Call before attaching. ids (1, T): some real text."""
        self.model, self.ids = model, ids
        self.before = logits(model, ids)
        self.base = base_sha256(model)
        self.identity_error = float("nan")
        self.start: dict[str, Tensor] = {}

    def attached(self) -> None:
        """Call after attaching, before the first step."""
        self.identity_error = float((logits(self.model, self.ids) - self.before).abs().max())
        handle = ad.attachment(self.model)
        self.start = {n: p.detach().to("cpu", copy=True) for n, p in handle.trainable().items()}

    def report(self, steps: int) -> dict[str, Any]:
        """moved: every trainable tensor differs from its start (None before 20 steps); still: those that do not."""
        handle = ad.attachment(self.model)
        trainable = handle.trainable()
        still = [n for n, p in trainable.items() if torch.equal(p.detach().cpu(), self.start[n])]
        ours = {id(p) for p in trainable.values()}
        with_gradient = [n for n, p in self.model.named_parameters() if p.grad is not None and id(p) not in ours]
        trains_base = handle.variant.trains_base
        return {
            "identity_error": self.identity_error,
            "moved": not still if steps >= MOVES_AFTER else None,
            "still": still,
            "no_base_gradient": None if trains_base else not with_gradient,
            "base_unchanged": None if trains_base else base_sha256(self.model) == self.base,
        }
