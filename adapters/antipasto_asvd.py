"""AntiPaSTO in ASVD's activation-scaled basis (ASVD: Yuan et al. 2023, arXiv 2312.05821; gain: arXiv 2601.07473).

    d = √(diag C + eps·mean(diag C)),  C = E[xxᵀ] over calibration tokens
    W·diag(d) = U·diag(S)·Vh (top r),  p = Vh(x/d)
    y' = y + U[S∘ELU(c·g)∘p],   g (r,)

`antipasto_corda` with the diagonal of the covariance only: channels are weighted, not their correlations.

Identity at t=0: g = 0, ELU(0) = 0, so the added term is exactly 0. c = `coeff` is a run-time knob; 0 is off.
Deviates from paper: ASVD scales channel j by (mean |x_j|)^α with α = ½ and then truncates the weight; here the scale is
    the root mean square, the base layer keeps W whole, and gains on the directions are trained.
Refs: section 3.2 of ASVD. A checkpoint stores d, (i,) numbers; U, S and Vh are computed again from W and d.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from adapters._bases import damping, svd
from adapters._contract import Calibration, Config, Shape, Variant, bounded, wide


@dataclass(frozen=True, kw_only=True)
class AntiPaSTOASVDConfig(Config):
    """r: directions kept. coeff: strength c. cov_eps: added to diag C as a share of its mean, for dead channels."""

    r: int = bounded(256, lo=1)
    coeff: float = bounded(1.0)
    cov_eps: float = bounded(1e-3, above=0)


class AntiPaSTOASVD(Variant):
    Config = AntiPaSTOASVDConfig
    paper = "2312.05821"
    exact_basis = frozenset({"basis_d"})

    @classmethod
    def shapes(cls, cfg: AntiPaSTOASVDConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_g": (cfg.r,)}

    @classmethod
    def calibration(cls, cfg: AntiPaSTOASVDConfig) -> Calibration:
        return Calibration.required

    @classmethod
    def stored_basis(cls, cfg: AntiPaSTOASVDConfig, calibrated: bool, o: int, i: int) -> dict[str, Shape]:
        return {"basis_d": (i,)}

    def basis(self, W: Float[Tensor, "o i"], moment: Float[Tensor, "i i"] | None) -> dict[str, Tensor]:
        assert moment is not None
        return self.scaled(W, (moment.diagonal().clamp_min(0) + damping(moment, self.cfg.cov_eps)).sqrt())

    def restore(self, W: Float[Tensor, "o i"], stored: dict[str, Tensor]) -> dict[str, Tensor]:
        return stored if "basis_U" in stored else self.scaled(W, stored["basis_d"])

    def scaled(self, W: Float[Tensor, "o i"], d: Float[Tensor, " i"]) -> dict[str, Tensor]:
        d, r = d.to(W), self.cfg.r
        U, S, Vh = svd(W * d)
        return {"basis_U": U[:, :r], "basis_S": S[:r], "basis_Vh": Vh[:r] / d, "basis_d": d}

    def gain(self) -> Float[Tensor, " r"]:
        """S∘ELU(c·g), in the wider of fp32 and the activations' dtype."""
        return self.basis_S * F.elu(self.coeff * self.lora_g.to(wide(self.basis_S.dtype, self.lora_g.dtype)))

    def factors(self) -> tuple[Float[Tensor, "o r"], Float[Tensor, "r i"]]:
        return self.basis_U * self.gain(), self.basis_Vh

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        p = F.linear(x, self.basis_Vh.to(x.dtype)).to(wide(x.dtype))  # (*B, r)
        return y + F.linear((self.gain() * p).to(x.dtype), self.basis_U.to(x.dtype))
