"""AntiPaSTO-DPLR: diagonal plus low rank inside the frozen SVD basis of the weight.

    W ≈ U·diag(S)·Vh (top r),  p = Vh x
    y' = y + U[S∘ELU(c·g)∘p + c·B(Ap)],   g (r,), A (k, r), B (r, k)

The gain of `antipasto` plus a rank-k core that mixes the whole top-r subspace for 2rk parameters. The core is added to
the gain, not multiplied by S, so its step does not grow with the singular values.

Identity at t=0: g = 0 and B = 0, so the added term is exactly 0. c = `coeff` is a run-time knob; 0 is off.
Deviates from paper: there is none; this variant is this project's own, built on arXiv 2601.07473 (`antipasto`) and on
    LoRA's init (A kaiming-uniform with a=√5, B = 0; arXiv 2106.09685).
Refs: `antipasto_arrow` is the dense-block form that it replaces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from adapters._bases import top_r
from adapters._contract import Config, Shape, Variant, bounded, wide


@dataclass(frozen=True, kw_only=True)
class AntiPaSTODPLRConfig(Config):
    """r: singular directions kept. lora_rank: k, rank of the core inside them. coeff: strength c."""

    r: int = bounded(256, lo=1)
    lora_rank: int = bounded(8, lo=1)
    coeff: float = bounded(1.0)


class AntiPaSTODPLR(Variant):
    Config = AntiPaSTODPLRConfig
    basis_fields = ("r",)

    @classmethod
    def shapes(cls, cfg: AntiPaSTODPLRConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_g": (cfg.r,), "lora_A": (cfg.lora_rank, cfg.r), "lora_B": (cfg.r, cfg.lora_rank)}

    def init(self, generator: torch.Generator, moment: Tensor | None) -> None:
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5), generator=generator)

    def basis(self, W: Float[Tensor, "o i"], moment: Tensor | None) -> dict[str, Tensor]:
        U, S, Vh, _ = top_r(W, self.cfg.r)
        return {"basis_U": U, "basis_S": S, "basis_Vh": Vh}

    def gain_and_core(self) -> tuple[Float[Tensor, " r"], Float[Tensor, "k r"], Float[Tensor, "r k"]]:
        """S∘ELU(c·g), A and c·B, in the wider of fp32 and the activations' dtype."""
        S, times_c = self.basis_S, self.times_coeff
        kind = wide(S.dtype, self.lora_g.dtype)
        return S * F.elu(times_c(self.lora_g.to(kind))), self.lora_A.to(kind), times_c(self.lora_B.to(kind))

    def factors(self) -> tuple[Float[Tensor, "o r"], Float[Tensor, "r i"]]:
        gain, A, cB = self.gain_and_core()
        return self.basis_U.to(gain.dtype) @ (torch.diag(gain) + cB @ A), self.basis_Vh

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        gain, A, cB = self.gain_and_core()
        p = F.linear(x, self.basis_Vh.to(x.dtype)).to(A.dtype)  # (*B, r)
        z = torch.addcmul(F.linear(F.linear(p, A), cB), gain, p)  # (*B, r)
        return y + F.linear(z.to(x.dtype), self.basis_U.to(x.dtype))
