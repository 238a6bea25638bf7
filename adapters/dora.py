"""DoRA: Weight-Decomposed Low-Rank Adaptation (Liu et al. 2024, arXiv 2402.09353).

    W' = m/n ∘ (W + sBA) by rows,   n = row norms of W + sBA, taken as constants,   m = m₀ + δ,   m₀ = row norms of W
    y' = y + (m/n − 1)∘(y − b) + m/n ∘ s·B(Ax),   A (r, i), B (o, r), δ (o,),   s = alpha/r  (or alpha/√r)
    n² = ‖W‖² + 2s·rowsum(B∘(WAᵀ)) + s²·rowsum(B(AAᵀ)∘B)

Identity at t=0: B = 0 gives n² = ‖W‖², hence m/n = √(‖W‖²/n²) = 1 exactly, and δ = 0: both added terms are exactly 0.
Deviates from paper: the magnitude is stored as its change δ, so that weight decay pulls to m₀ and a small step is not
    lost to m₀'s rounding. The change is absolute: a step of Adam moves m as far as in PEFT. (With m₀(1 + δ), as in
    checkpoints of version 1, it moved m₀ times as far.) Norms are of rows (one per output), as in the authors' code
    and PEFT; the paper's text says columns. A row of zeros has m₀ = 0 and stays zero (0/0 is taken as 0; PEFT gives
    NaN).
Refs: eq. 5; section 4.3 for the detached n. The expanded n² needs (o, r) numbers and never the (o, i) product BA. m's
    gradient reads Wx, which the backward pass computes once more: kept, Wx would add 8 % to Qwen3-0.6B's training peak.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from adapters._contract import Config, Scaling, Shape, Variant, bounded, wide
from adapters._errors import AdapterError, problem
from adapters._weights import Layer, dense_weight


@dataclass(frozen=True, kw_only=True)
class DoRAConfig(Config):
    """r: rank. alpha: numerator of the scale (None: r). scaling: standard alpha/r, rslora alpha/√r."""

    r: int = bounded(32, lo=1)
    alpha: float | None = bounded(64.0, above=0)
    scaling: Scaling = Scaling.standard


class DoRA(Variant):
    Config = DoRAConfig
    paper = "2402.09353"
    tensors_version = 2  # 1: δ relative to m₀

    @classmethod
    def shapes(cls, cfg: DoRAConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_A": (cfg.r, i), "lora_B": (o, cfg.r), "lora_delta": (o,)}

    def init(self, generator: torch.Generator, moment: Tensor | None) -> None:
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5), generator=generator)

    def basis(self, W: Float[Tensor, "o i"], moment: Tensor | None) -> dict[str, Tensor]:
        return {"basis_square": W.square().sum(1)}  # (o,): ‖W‖² = m₀²

    def converted(self, tensors: dict[str, Tensor], version: int) -> dict[str, Tensor]:
        """Version 1 stored δ relative to m₀: m = m₀(1 + δ). Raises AdapterError where converting it would round."""
        delta = tensors["lora_delta"]
        if delta.dtype != wide(delta.dtype):
            what = "lora_delta of version 1, relative to the row norms, cannot be converted exactly in this dtype"
            raise AdapterError(problem("dora", what, got=str(delta.dtype), remedy="Train it again."))
        m0 = self.basis_square.to("cpu", torch.float64).sqrt()
        return tensors | {"lora_delta": (m0 * delta).to(delta.dtype)}

    @torch.no_grad()
    def product(self) -> Float[Tensor, "o r"]:
        """WAᵀ, in the widest of fp32 and the two dtypes."""
        W, A = dense_weight(self.layer), self.lora_A
        kind = wide(W.dtype, A.dtype)
        return W.to(kind) @ A.to(kind).T

    @torch.no_grad()
    def norm_ratio(
        self,
        A: Float[Tensor, "L r i"],
        B: Float[Tensor, "L o r"],
        square: Float[Tensor, "L o"],
        WAt: Float[Tensor, "L o r"],
    ) -> Float[Tensor, "L o"]:
        """m₀/n, without a graph: n is a constant of the forward pass."""
        s = self.scale
        change = torch.baddbmm(WAt, B, A @ A.mT, beta=2 * s, alpha=s * s)  # (L, o, r): 2s·WAᵀ + s²·B(AAᵀ)
        n2 = square + (B * change).sum(2)  # (L, o)
        return (square / n2.clamp_min(torch.finfo(A.dtype).tiny)).sqrt()

    def scaled(
        self, dtype: torch.dtype, *tensors: Tensor
    ) -> tuple[Float[Tensor, "L o"], Float[Tensor, "L o r"], Float[Tensor, "L r i"]]:
        """m/n − 1, (m/n)·s·B and A in `dtype`, of A, B, δ, ‖W‖² and WAᵀ; computed in the wider of fp32 and `dtype`."""
        A, B, delta, square, WAt = (t.to(wide(dtype)) for t in tensors)
        ratio, m0 = self.norm_ratio(A, B, square, WAt), square.sqrt()
        inverse = ratio / m0.clamp_min(torch.finfo(A.dtype).tiny)  # 1/n; m₀ = 0 has ratio 0
        less_one = torch.addcmul(ratio - 1, inverse, delta)
        P = (self.scale * (1 + less_one)).unsqueeze(2) * B
        return less_one.to(dtype), P.to(dtype), A.to(dtype)

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        inputs = ("lora_A", "lora_B", "lora_delta", "basis_square", "product")
        less_one, P, A = self.together(self.scaled, x.dtype, *inputs)
        bias, less_one = self.layer.bias, less_one.to(y.dtype)
        unbiased = y if bias is None else y - bias.to(y.dtype)
        if not torch.compiler.is_compiling() and self.forward_pass is not None and self.forward_pass.serves():
            y = _Rescaled.apply(y, less_one, unbiased, x, self.layer)  # type: ignore[no-untyped-call]
        else:  # nothing is kept for long, or the compiler decides what
            y = torch.addcmul(y, less_one, unbiased)
        return y + F.linear(F.linear(x, A), P)


class _Rescaled(torch.autograd.Function):
    """y + l∘(y − b), l = m/n − 1. For l's gradient it keeps x, as A's gradient does, and computes Wx = y − b again."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, less_one: Tensor, unbiased: Tensor, x: Tensor, layer: Layer) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(less_one, x)
        return torch.addcmul(y, less_one, unbiased)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        less_one, x = ctx.saved_tensors
        d_less_one = d_unbiased = None
        if ctx.needs_input_grad[1]:
            Wx = F.linear(x, dense_weight(ctx.layer).to(x.dtype))
            d_less_one = (dy * Wx).sum_to_size(less_one.shape)
        if ctx.needs_input_grad[2]:
            d_unbiased = dy * less_one
        return dy, d_less_one, d_unbiased, None, None
