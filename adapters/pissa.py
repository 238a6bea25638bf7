"""PiSSA: Principal Singular Values and Singular Vectors Adaptation (Meng et al. 2024, arXiv 2404.02948).

    A₀ = √(S/s)·Vh, B₀ = U·√(S/s) (top r of W) are frozen;  A = A₀ + dA and B = B₀ + dB train
    y' = y + s·(BA − B₀A₀)x = y + s·[dB(A₀x + dA x) + B₀(dA x)],   dA (r, i), dB (o, r),   s = alpha/r

Identity at t=0: dA = dB = 0, so the added term is exactly 0.
Deviates from paper: delta form. The paper trains A and B on a residual weight W − sB₀A₀, which has to be written,
    rounds in bf16 and cannot be undone; here the weight stays and the same function, with the same gradients, is
    computed. The products are not subtracted: in bf16 B(Ax) − B₀(A₀x) is mostly rounding error while dA is small.
    Weight decay pulls to A₀ and B₀, not to zero.
Refs: eq. 2-4; alpha = r (s = 1) as in the authors' experiments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from adapters._bases import top_r
from adapters._contract import Config, Scaling, Shape, Variant, bounded, wide


@dataclass(frozen=True, kw_only=True)
class PiSSAConfig(Config):
    """r: principal directions trained. alpha: numerator of the scale (None: r). scaling: alpha/r or alpha/√r."""

    r: int = bounded(32, lo=1)
    alpha: float | None = bounded(None, above=0)
    scaling: Scaling = Scaling.standard


class PiSSA(Variant):
    Config = PiSSAConfig
    paper = "2404.02948"

    @classmethod
    def shapes(cls, cfg: PiSSAConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_dA": (cfg.r, i), "lora_dB": (o, cfg.r)}

    def basis(self, W: Float[Tensor, "o i"], moment: Tensor | None) -> dict[str, Tensor]:
        U, S, Vh, _ = top_r(W, self.cfg.r)
        root = (S / self.scale).sqrt()  # (r,)
        return {"basis_A": root.unsqueeze(1) * Vh, "basis_B": U * root}

    def factors(self) -> tuple[Float[Tensor, "o n"], Float[Tensor, "n i"]]:
        kind = wide(self.basis_A.dtype, self.lora_dA.dtype)
        dA, dB = self.lora_dA.to(kind), self.lora_dB.to(kind)
        P = torch.cat((dB, self.basis_B.to(kind)), 1)  # (o, 2r)
        return self.scale * P, torch.cat((self.basis_A.to(kind) + dA, dA), 0)

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        dA, dB = self.lora_dA.to(x.dtype), self.lora_dB.to(x.dtype)
        moved = F.linear(x, dA)  # (*B, r)
        h = F.linear(x, self.basis_A.to(x.dtype)) + moved  # (*B, r): Ax
        return y + self.scale * (F.linear(h, dB) + F.linear(moved, self.basis_B.to(x.dtype)))
