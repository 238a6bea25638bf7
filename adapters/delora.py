"""DeLoRA: Decoupling Angles and Strength in Low-rank Adaptation (Bini et al. 2025, arXiv 2503.18225).

    y' = y + (λ/r)·B Ξ A(w∘x),   Ξ = diag(1/(‖a_j‖‖b_j‖)),   A (r, i), B (o, r), λ (1,)
    a_j rows of A, b_j columns of B, norms clamped at 1e-4;   w = column norms of W

Angles (the unit vectors) and strength (λ) are separate: ‖B Ξ A‖ ≤ r whatever the step size, so λ bounds the change.

Identity at t=0: B = 0, so the added term is exactly 0; with `residual_init` see below.
Deviates from paper: B = 0 as in PEFT, where the authors subtract a frozen copy of a random start. The first step then
    gives each b_j full length whatever the learning rate: ΔW jumps to λ's scale (in PEFT too), so watch ‖ΔW‖/‖W‖.
    `residual_init` is the authors' way: y' = y + f(A, B, λ) − f(A₀, B₀, λ₀), exactly 0 at t=0 and small after a step
    (their code scales the frozen part by the current λ, not by λ₀). The start is drawn from a seed that is a hash of
    the weight, so that a checkpoint need not hold it: `seed` does not change it.
Refs: section 3 and github.com/ExplainableML/DeLoRA. A, B and λ get no weight decay: none of them is identity at zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from adapters._contract import Config, Shape, Variant, bounded, wide
from adapters._weights import values_sha256


@dataclass(frozen=True, kw_only=True)
class DeLoRAConfig(Config):
    """r: rank. lambda0: initial strength λ. residual_init: start from a random B whose effect is subtracted."""

    r: int = bounded(32, lo=1)
    lambda0: float = bounded(15.0, above=0)
    residual_init: bool = False


class DeLoRA(Variant):
    Config = DeLoRAConfig
    paper = "2503.18225"
    no_decay = frozenset({"lora_A", "lora_B", "lora_lambda"})

    @classmethod
    def shapes(cls, cfg: DeLoRAConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_A": (cfg.r, i), "lora_B": (o, cfg.r), "lora_lambda": (1,)}

    def init(self, generator: torch.Generator, moment: Tensor | None) -> None:
        nn.init.constant_(self.lora_lambda, self.cfg.lambda0)
        if self.cfg.residual_init:
            self.lora_A.copy_(self.basis_A)
            self.lora_B.copy_(self.basis_B)
        else:
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5), generator=generator)

    def basis(self, W: Float[Tensor, "o i"], moment: Tensor | None) -> dict[str, Tensor]:
        basis = {"basis_w": W.square().sum(0).sqrt()}  # (i,)
        if self.cfg.residual_init:
            generator = torch.Generator().manual_seed(int(values_sha256(W)[:15], 16))
            shapes = self.shapes(self.cfg, self.o, self.i)
            for key, name in (("basis_A", "lora_A"), ("basis_B", "lora_B")):
                start = torch.empty(shapes[name], dtype=torch.float32)
                basis[key] = nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
        return basis

    def scaled(self, A: Float[Tensor, "L r i"], B: Float[Tensor, "L o r"], strength: Float[Tensor, "L 1"]) -> Tensor:
        """(λ/r)·B Ξ, (L, o, r)."""
        norms = A.norm(dim=2).clamp_min(1e-4) * B.norm(dim=1).clamp_min(1e-4)  # (L, r)
        scaled: Tensor = B * (strength / (self.cfg.r * norms)).unsqueeze(1)
        return scaled

    def pair(self, dtype: torch.dtype, *tensors: Tensor) -> tuple[Float[Tensor, "L o n"], Float[Tensor, "L n i"]]:
        """P and Q in `dtype`, of `inputs`."""
        A, B, strength, w, *start = (t.to(wide(dtype, self.lora_A.dtype)) for t in tensors)
        w = w.unsqueeze(1)  # (L, 1, i)
        P, Q = self.scaled(A, B, strength), A * w  # (L, o, r), (L, r, i)
        if start:
            A0, B0 = start
            P0 = self.scaled(A0, B0, torch.full_like(strength, self.cfg.lambda0))  # at t=0 the bits of P
            P, Q = torch.cat((P - P0, P0), 2), torch.cat((Q, (A - A0) * w), 1)  # PQ − P₀Q₀ without cancellation
        return P.to(dtype), Q.to(dtype)

    @property
    def inputs(self) -> tuple[str, ...]:
        start = ("basis_A", "basis_B") if self.cfg.residual_init else ()
        return "lora_A", "lora_B", "lora_lambda", "basis_w", *start

    def factors(self) -> tuple[Float[Tensor, "o n"], Float[Tensor, "n i"]]:
        P, Q = self.alone(self.pair, wide(self.basis_w.dtype, self.lora_A.dtype), *self.inputs)
        return P, Q

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        P, Q = self.together(self.pair, x.dtype, *self.inputs)
        return y + F.linear(F.linear(x, Q), P)
