"""What the optimizer updates: the trainable tensors, or fp32 copies of the base weights where those are narrower."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import adapters as ad


class Masters:
    """params: name → tensor that the optimizer updates and a checkpoint holds.

    Where the base itself is trained, a weight narrower than fp32 gets an fp32 copy. In bf16 a step at lr 1e-5 is less
    than half a unit in the last place of most weights: added to the weight itself, it is lost to rounding.
    """

    def __init__(self, model: nn.Module) -> None:
        handle = ad.attachment(model)
        own = handle.trainable()
        self.params = {n: _wide(p) for n, p in own.items()} if handle.variant.trains_base else own
        self._pairs = [(own[n], p) for n, p in self.params.items() if p is not own[n]]
        self._model = model

    def groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """The optimizer's groups."""
        copies = dict(self._pairs)
        groups = ad.parameter_groups(self._model, lr=lr, weight_decay=weight_decay)
        return [g | {"params": [copies.get(p, p) for p in g["params"]]} for g in groups]

    def collect(self) -> None:
        """After a backward pass: adds the weights' gradients to those of their copies."""
        for own, copy in self._pairs:
            if own.grad is not None:
                copy.grad = own.grad.to(copy.dtype) if copy.grad is None else copy.grad + own.grad
                own.grad = None

    @torch.no_grad()
    def write_back(self) -> None:
        """After a step, or a checkpoint: rounds the copies into the weights."""
        for own, copy in self._pairs:
            own.copy_(copy)


def _wide(p: nn.Parameter) -> nn.Parameter:
    kind = torch.promote_types(p.dtype, torch.float32)
    return p if p.dtype == kind else nn.Parameter(p.detach().to(kind))
