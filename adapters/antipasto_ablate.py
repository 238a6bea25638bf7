"""AntiPaSTO-Ablate: learned directions are removed from the layer's dominant subspace (arXiv 2406.11717).

    W ≈ U·diag(S)·Vh (top r),  p = Vh x,  h = S∘p
    y' = y − c·U[Q(α∘(Qᵀh))],   D (r, k), Q = D/‖D‖ (k = 1) or the reduced QR of D, α (k,) in [0, 1]

For 0 ≤ c ≤ 1 the map h → h − c·Q(α∘(Qᵀh)) is a contraction: it only ever removes, by the share c·α of each direction.

Identity at t=0: to about 1e-2 only: α starts at 0.05, since at α = 0 the directions D would have no gradient.
Deviates from paper: Arditi et al. find one "refusal" direction by a difference of means and remove it whole, from the
    residual stream; here directions in the weight's singular basis and their shares are trained, layer by layer.
    `cov_orient` takes the basis of `antipasto_corda`; without it, calibration selects directions as in `antipasto`.
Refs: eq. 4 (directional ablation). Only the directions of D enter Q, and α is kept in range: neither is decayed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from adapters._bases import oriented, selected, selected_again
from adapters._contract import Calibration, Config, Shape, Variant, bounded, wide
from adapters._errors import AdapterError, problem

DAMPING = 1e-6  # of the columns' length, which starts at 1; keeps QR's gradient finite where D loses rank


@dataclass(frozen=True, kw_only=True)
class AntiPaSTOAblateConfig(Config):
    """r: singular directions kept. k: directions ablated among them. coeff: strength c.

    cov_orient: take the basis of `antipasto_corda`, with its cov_eps (relative to the mean of diag C).
    """

    r: int = bounded(256, lo=1)
    k: int = bounded(1, lo=1)
    coeff: float = bounded(1.0)
    cov_orient: bool = False
    cov_eps: float = bounded(1e-3, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k > self.r:
            raise AdapterError(problem(type(self).__name__, "k out of range", got=self.k, expected=f"<= r={self.r}"))


class AntiPaSTOAblate(Variant):
    Config = AntiPaSTOAblateConfig
    paper = "2406.11717"
    no_decay = frozenset({"lora_c", "lora_alpha"})
    identity_atol = 5e-2

    @classmethod
    def shapes(cls, cfg: AntiPaSTOAblateConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_c": (cfg.r, cfg.k), "lora_alpha": (cfg.k,)}

    @classmethod
    def calibration(cls, cfg: AntiPaSTOAblateConfig) -> Calibration:
        return Calibration.required if cfg.cov_orient else Calibration.optional

    @classmethod
    def stored_basis(cls, cfg: AntiPaSTOAblateConfig, calibrated: bool, o: int, i: int) -> dict[str, Shape]:
        if cfg.cov_orient:
            return {"basis_U": (o, cfg.r), "basis_S": (cfg.r,), "basis_Vh": (cfg.r, i)}
        return {"basis_index": (cfg.r,)} if calibrated else {}

    def init(self, generator: torch.Generator, moment: Tensor | None) -> None:
        nn.init.normal_(self.lora_c, std=1 / math.sqrt(self.cfg.r), generator=generator)
        nn.init.constant_(self.lora_alpha, 0.05)

    def basis(self, W: Float[Tensor, "o i"], moment: Float[Tensor, "i i"] | None) -> dict[str, Tensor]:
        if self.cfg.cov_orient:
            assert moment is not None
            return oriented(W, self.cfg.r, moment, self.cfg.cov_eps)
        return selected(W, self.cfg.r, moment)

    def restore(self, W: Float[Tensor, "o i"], stored: dict[str, Tensor]) -> dict[str, Tensor]:
        return selected_again(W, stored)

    def directions(self, D: Float[Tensor, "L r k"]) -> Float[Tensor, "L r k"]:
        """Q, orthonormal columns (zero where D is): the QR of D on top of DAMPING·I, rows of D."""
        if self.cfg.k == 1:
            return F.normalize(D, dim=1)
        damping = DAMPING * torch.eye(self.cfg.k, dtype=D.dtype, device=D.device)
        Q: Tensor = torch.linalg.qr(torch.cat((D, damping.expand(len(D), -1, -1)), 1))[0]  # (L, r + k, k)
        return Q[:, : self.cfg.r]

    def share(self, a: Float[Tensor, "L k"]) -> Float[Tensor, "L k"]:
        """c·α. The value of α is clamped to [0, 1], the gradient is not: a rate pushed out can come back."""
        return self.times_coeff(a + (a.clamp(0, 1) - a).detach())

    @torch.no_grad()
    def project(self) -> None:
        self.lora_alpha.clamp_(0, 1)

    def removal(self, dtype: torch.dtype, *tensors: Tensor) -> tuple[Float[Tensor, "L r k"], Float[Tensor, "L k r"]]:
        """−c·Q diag(α) and Qᵀ diag(S), of D, α and S; in `dtype`."""
        D, a, S = (t.to(dtype) for t in tensors)
        Q = self.directions(D)
        return Q * -self.share(a).unsqueeze(1), Q.mT * S.unsqueeze(1)

    @property
    def inputs(self) -> tuple[torch.dtype, str, str, str]:
        return wide(self.basis_S.dtype, self.lora_c.dtype), "lora_c", "lora_alpha", "basis_S"

    def factors(self) -> tuple[Float[Tensor, "o k"], Float[Tensor, "k i"]]:
        out, into = self.alone(self.removal, *self.inputs)
        return self.basis_U.to(out.dtype) @ out, into @ self.basis_Vh.to(into.dtype)

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        out, into = self.together(self.removal, *self.inputs)
        p = F.linear(x, self.basis_Vh.to(x.dtype)).to(out.dtype)  # (*B, r)
        change = F.linear(F.linear(p, into), out)  # (*B, r)
        return y + F.linear(change.to(x.dtype), self.basis_U.to(x.dtype))
