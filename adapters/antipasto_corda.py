"""AntiPaSTO in CorDA's covariance-oriented basis (CorDA: Yang et al. 2024, arXiv 2406.05223; gain: arXiv 2601.07473).

    C = E[xxᵀ] over calibration tokens,  W·C^½ = U·diag(S)·Vh (top r),  p = (Vh·C^-½)x
    y' = y + U[S∘ELU(c·g)∘p],   g (r,)

The directions are those that carry most of the layer's *output* on real inputs, not those with the largest weights.

Identity at t=0: g = 0, ELU(0) = 0, so the added term is exactly 0. c = `coeff` is a run-time knob; 0 is off.
Deviates from paper: CorDA decomposes W·C (its singular values weigh inputs twice) and multiplies by C⁻¹; W·C^½ makes
    S² the output energy E‖Wx‖² direction by direction. CorDA then trains low-rank factors; here only gains. C's
    eigenvalues are clamped at 0 and raised by `cov_eps`·mean(diag C), where CorDA adds growing damping until the
    inverse exists: the basis does not depend on the unit of the inputs.
Refs: section 3.2 of CorDA. A checkpoint stores the basis: the weight alone does not give it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from adapters._bases import oriented
from adapters._contract import Calibration, Config, Shape, Variant, bounded, wide


@dataclass(frozen=True, kw_only=True)
class AntiPaSTOCorDAConfig(Config):
    """r: directions kept. coeff: strength c. cov_eps: added to C's eigenvalues, as a share of their mean."""

    r: int = bounded(256, lo=1)
    coeff: float = bounded(1.0)
    cov_eps: float = bounded(1e-3, above=0)


class AntiPaSTOCorDA(Variant):
    Config = AntiPaSTOCorDAConfig
    paper = "2406.05223"

    @classmethod
    def shapes(cls, cfg: AntiPaSTOCorDAConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_g": (cfg.r,)}

    @classmethod
    def calibration(cls, cfg: AntiPaSTOCorDAConfig) -> Calibration:
        return Calibration.required

    @classmethod
    def stored_basis(cls, cfg: AntiPaSTOCorDAConfig, calibrated: bool, o: int, i: int) -> dict[str, Shape]:
        return {"basis_U": (o, cfg.r), "basis_S": (cfg.r,), "basis_Vh": (cfg.r, i)}

    def basis(self, W: Float[Tensor, "o i"], moment: Float[Tensor, "i i"] | None) -> dict[str, Tensor]:
        assert moment is not None
        return oriented(W, self.cfg.r, moment, self.cfg.cov_eps)

    def gain(self) -> Float[Tensor, " r"]:
        """S∘ELU(c·g), in the wider of fp32 and the activations' dtype."""
        return self.basis_S * F.elu(self.coeff * self.lora_g.to(wide(self.basis_S.dtype, self.lora_g.dtype)))

    def factors(self) -> tuple[Float[Tensor, "o r"], Float[Tensor, "r i"]]:
        return self.basis_U * self.gain(), self.basis_Vh

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        p = F.linear(x, self.basis_Vh.to(x.dtype)).to(wide(x.dtype))  # (*B, r)
        return y + F.linear((self.gain() * p).to(x.dtype), self.basis_U.to(x.dtype))
