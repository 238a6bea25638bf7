"""HRA: Householder Reflection Adaptation (Yuan et al. 2024, arXiv 2405.17484).

    W' = W R,  R = H₁⋯H_r,  H_j = I − 2u_juⱼᵀ/‖u_j‖²,  u_j rows of U (r, i), r even:   y' = base(x Rᵀ)

Two reflections along nearly equal unit vectors a, b nearly cancel. With e = b − a and ε = ‖e‖², exactly,

    H_aH_b = I + [a e] K [a e]ᵀ,   K = [[−2ε, 2 − 2ε], [−2, −2]]

so with P (i, r) all pairs' [a e], D = blockdiag(K) and N the strictly block-upper part of PᵀP the whole product is

    R = I + P T Pᵀ,   T = (I − DN)⁻¹D   (r, r):   two thin matmuls, no loop over reflections, no (i, i) matrix

Identity at t=0: rows come in equal pairs, so e = 0, and T is zero except where it meets e: R − I is exactly 0.
Deviates from paper: neither the loss-side orthogonality penalty nor the Gram-Schmidt mode; rows come in pairs, so r is
    even. (The compact WY form of single reflections is an identity to rounding only, and rounds small steps away.)
Refs: section 3; Bischof and Van Loan 1987 for products of reflections. Only directions of U enter R, so there is no
    weight decay, and U's scale sets how far one step turns them: kaiming-uniform with a=√5 over i, as LoRA's A. PEFT's
    U is drawn over r/2, which at the same learning rate turns √(2i/r) times slower (8 times at i = 1024, r = 32).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from adapters._contract import Config, Shape, Variant, bounded, wide


@dataclass(frozen=True, kw_only=True)
class HRAConfig(Config):
    """r: number of reflections, even."""

    r: int = bounded(32, lo=2, multiple=2)


class HRA(Variant):
    Config = HRAConfig
    paper = "2405.17484"
    no_decay = frozenset({"lora_U"})

    @classmethod
    def shapes(cls, cfg: HRAConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_U": (cfg.r, i)}

    def init(self, generator: torch.Generator, moment: Tensor | None) -> None:
        half = nn.init.kaiming_uniform_(torch.empty(self.cfg.r // 2, self.i), a=math.sqrt(5), generator=generator)
        self.lora_U.copy_(half.repeat_interleave(2, 0))

    def rotation(
        self, dtype: torch.dtype, U: Float[Tensor, "L r i"]
    ) -> tuple[Float[Tensor, "L r i"], Float[Tensor, "L i r"]]:
        """Pᵀ and PT, so that R − I = (PT)Pᵀ; computed in the wider of fp32 and `dtype`."""
        unit = F.normalize(U.to(wide(dtype)), dim=2)
        a, e = unit[:, 0::2], unit[:, 1::2] - unit[:, 0::2]  # (L, r/2, i) each
        Pt = torch.stack((a, e), 2).flatten(1, 2)  # (L, r, i): a₁ e₁ a₂ e₂ …
        eps = e.square().sum(2)
        two = torch.full_like(eps, -2)
        K = torch.stack((-2 * eps, 2 - 2 * eps, two, two), 2).unflatten(2, (2, 2))  # (L, r/2, 2, 2)
        pairs = torch.eye(K.shape[1], dtype=K.dtype, device=K.device)
        D = (pairs[:, None, :, None] * K[:, :, :, None, :]).flatten(3, 4).flatten(1, 2)  # (L, r, r)
        pair = torch.arange(self.cfg.r, device=K.device) // 2
        N = (Pt @ Pt.mT) * (pair[:, None] < pair[None, :])  # (L, r, r)
        # I − DN is unit upper triangular; the solve does not look at what is on or below the diagonal.
        T = torch.linalg.solve_triangular(-(D @ N), D, upper=True, unitriangular=True)
        return Pt.to(dtype), (Pt.mT @ T).to(dtype)

    def forward_input(self, x: Float[Tensor, "*B i"]) -> Float[Tensor, "*B i"]:
        Pt, PT = self.together(self.rotation, x.dtype, "lora_U")
        return x + F.linear(F.linear(x, Pt), PT)
