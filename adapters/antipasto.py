"""AntiPaSTO: a learned gain on the singular directions of the weight (arXiv 2601.07473).

    W ≈ U·diag(S)·Vh (top r),  p = Vh x
    y' = y + U[S∘ELU(c·g)∘p],   so that S_eff = S∘(1 + ELU(c·g)) > 0:  a gain, never a sign flip

Identity at t=0: g = 0, ELU(0) = 0, so the added term is exactly 0. c = `coeff` is a run-time knob; 0 is off.
Deviates from paper: delta form (the base layer computes y, the discarded directions stay in it) instead of a mutated
    residual weight; the gain is 1 + ELU(c·g), not an additive ΔS; the rotation is a variant of its own (antipasto_rot).
Refs: with calibration the top r by S·rms(v·x), rms = √(vᵀCv); without it the top r by S.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from adapters._bases import selected, selected_again
from adapters._contract import Calibration, Config, Shape, Variant, bounded, wide


@dataclass(frozen=True, kw_only=True)
class AntiPaSTOConfig(Config):
    """r: singular directions kept. coeff: strength c. suppress_only: gains ≤ 1, by keeping g ≤ 0."""

    r: int = bounded(256, lo=1)
    coeff: float = bounded(1.0)
    suppress_only: bool = False


class AntiPaSTO(Variant):
    Config = AntiPaSTOConfig
    basis_fields = ("r",)
    paper = "2601.07473"

    @classmethod
    def shapes(cls, cfg: AntiPaSTOConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_g": (cfg.r,)}

    @classmethod
    def calibration(cls, cfg: AntiPaSTOConfig) -> Calibration:
        return Calibration.optional

    def basis(self, W: Float[Tensor, "o i"], moment: Float[Tensor, "i i"] | None) -> dict[str, Tensor]:
        return selected(W, self.cfg.r, moment)

    @classmethod
    def stored_basis(cls, cfg: AntiPaSTOConfig, calibrated: bool, o: int, i: int) -> dict[str, Shape]:
        return {"basis_index": (cfg.r,)} if calibrated else {}

    def restore(self, W: Float[Tensor, "o i"], stored: dict[str, Tensor]) -> dict[str, Tensor]:
        return selected_again(W, stored)

    def gain(self) -> Float[Tensor, " r"]:
        """S∘ELU(c·g), in the wider of fp32 and the activations' dtype."""
        g = self.lora_g.to(wide(self.basis_S.dtype, self.lora_g.dtype))
        if self.cfg.suppress_only:
            g = g + (g.clamp_max(0) - g).detach()  # the value is clamped, the gradient is not: a gate can come back
        return self.basis_S * F.elu(self.times_coeff(g))

    @torch.no_grad()
    def project(self) -> None:
        if self.cfg.suppress_only:
            self.lora_g.clamp_(max=0)

    def factors(self) -> tuple[Float[Tensor, "o r"], Float[Tensor, "r i"]]:
        return self.basis_U * self.gain(), self.basis_Vh

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        p = F.linear(x, self.basis_Vh.to(x.dtype)).to(wide(x.dtype))  # (*B, r)
        return y + F.linear((self.gain() * p).to(x.dtype), self.basis_U.to(x.dtype))
