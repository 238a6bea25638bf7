"""AntiPaSTO-Rot: a learned gain and a bounded rotation of the singular directions (arXiv 2601.07473).

    W ≈ U·diag(S)·Vh (top r),  p = Vh x,  R block-diagonal with 4×4 rotations
    y' = y + U[S(1 + ELU(c·g))∘(Rp) − S∘p],   g (r,), skew (r/4, 6)
    per block, v its six numbers and A (4, 4) the skew-symmetric matrix of v/√(1 + ‖v‖²/l²), l = 2·tan(1/4):
    R = (I − X)⁻¹(I + X) (Cayley), X = cA/2,  R − I = 2(I − X)⁻¹X

‖A‖₂ ≤ ‖v‖/√(1 + ‖v‖²/l²) < l, so at c = 1 no direction turns by more than 2·atan(l/2) = 1/2 rad.

Identity at t=0: v = 0 and g = 0 give R − I = 0 and ELU = 0, and the added term is U[S∘((R−I)p + ELU(c·g)∘Rp)] = 0.
    c = `coeff` is a run-time knob; 0 is off.
Deviates from paper: delta form; the gain as in `antipasto`; the bound is smooth and on the block's spectral norm, where
    the authors' code takes a tanh of each entry: gradients fade slowly and every rotation can come back.
Refs: Cayley-Hamilton for a skew 4×4 X, X⁴ = −qX² − p²I with q = Σ x², p the Pfaffian, gives the inverse in closed form:
    R − I = 2[(1+q)X + X² + X³ − p²I]/(1 + q + p²). No solve, hence no device synchronisation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from adapters._bases import top_r
from adapters._contract import Config, Shape, Variant, bounded, wide

LIMIT = 2 * math.tan(0.25)  # of ‖A‖₂


@dataclass(frozen=True, kw_only=True)
class AntiPaSTORotConfig(Config):
    """r: singular directions kept, a multiple of 4. coeff: strength c of gain and rotation."""

    r: int = bounded(256, lo=4, multiple=4)
    coeff: float = bounded(1.0)


class AntiPaSTORot(Variant):
    Config = AntiPaSTORotConfig
    basis_fields = ("r",)
    paper = "2601.07473"

    @classmethod
    def shapes(cls, cfg: AntiPaSTORotConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_g": (cfg.r,), "lora_skew": (cfg.r // 4, 6)}

    def basis(self, W: Float[Tensor, "o i"], moment: Tensor | None) -> dict[str, Tensor]:
        U, S, Vh, _ = top_r(W, self.cfg.r)
        return {"basis_U": U, "basis_S": S, "basis_Vh": Vh}

    def core(
        self, dtype: torch.dtype, skew: Float[Tensor, "L n 6"], g: Float[Tensor, "L r"], S: Float[Tensor, "L r"]
    ) -> tuple[Float[Tensor, "L n 4 4"]]:
        """diag(S)·[(R−I) + diag(ELU(c·g))R], block by block, in `dtype`."""
        v = skew.to(dtype)
        v = 0.5 * self.coeff * v / (1 + v.square().sum(2, keepdim=True) / LIMIT**2).sqrt()
        a, b, c, d, e, f = v.unbind(2)
        o = torch.zeros_like(a)
        X = torch.stack((o, a, b, c, -a, o, d, e, -b, -d, o, f, -c, -e, -f, o), 2).unflatten(2, (4, 4))
        q = v.square().sum(2)[..., None, None]
        p2 = (a * f - b * e + c * d).square()[..., None, None]
        X2 = X @ X
        identity = torch.eye(4, dtype=X.dtype, device=X.device)
        turn = 2 * ((1 + q) * X + X2 + X2 @ X - p2 * identity) / (1 + q + p2)  # R − I
        gain = F.elu(self.times_coeff(g.to(dtype))).unflatten(1, (-1, 4, 1))  # (L, n, 4, 1)
        rows = S.to(dtype).unflatten(1, (-1, 4, 1))
        return (rows * (turn + gain * turn + gain * identity),)

    def folded(self, core: Float[Tensor, "n 4 4"]) -> Float[Tensor, "o r"]:
        """P: the 4×4 blocks folded into U."""
        U = self.basis_U.to(core.dtype).view(self.o, -1, 4)  # (o, n, 4)
        return torch.einsum("onk,nkl->onl", U, core).flatten(1)

    @property
    def inputs(self) -> tuple[torch.dtype, str, str, str]:
        return wide(self.basis_S.dtype, self.lora_skew.dtype), "lora_skew", "lora_g", "basis_S"

    def factors(self) -> tuple[Float[Tensor, "o r"], Float[Tensor, "r i"]]:
        return self.folded(*self.alone(self.core, *self.inputs)), self.basis_Vh

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        P = self.folded(*self.together(self.core, *self.inputs))
        return y + F.linear(F.linear(x, self.basis_Vh.to(x.dtype)), P.to(x.dtype))
