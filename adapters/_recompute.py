"""Products with a dense (o, i) matrix that is built from a few numbers, without keeping it from forward to backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def linear_of(
    x: Float[Tensor, "*B i"], build: Callable[..., Float[Tensor, "o i"]], *tensors: Tensor
) -> Float[Tensor, "*B o"]:
    """x·Dᵀ with D = build(*tensors), which backward builds once more: only x and `tensors` stay in memory.

    What `build` reads besides `tensors` gets no gradient and must not change in between. Compiled code holds the plain
    product: the compiler decides itself what to keep.
    """
    if torch.compiler.is_compiling():
        return F.linear(x, build(*tensors))
    y: Tensor = _LinearOf.apply(x, build, *tensors)  # type: ignore[no-untyped-call]
    return y


class _LinearOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, build: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        ctx.build = build
        ctx.save_for_backward(x, *tensors)
        return F.linear(x, build(*tensors))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        leaves = [t.detach().requires_grad_() for t in tensors]
        with torch.enable_grad():
            D = ctx.build(*leaves)  # (o, i)
        dx = dy @ D.detach() if ctx.needs_input_grad[0] else None
        dD = dy.reshape(-1, dy.shape[-1]).T @ x.reshape(-1, x.shape[-1])  # (o, i)
        return dx, None, *torch.autograd.grad(D, leaves, dD)
