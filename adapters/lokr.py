"""LoKr: low-rank adaptation by a Kronecker product (LyCORIS, Yeh et al. 2023, arXiv 2309.14859).

    o = l·k,  i = m·n:   y' = y + s·(C ⊗ BA)x,   C (l, m), B (k, r), A (r, n),   s = alpha/r
    (C ⊗ D)x is the matrix C X Dᵀ, row by row, with X (m, n) the rows of x: the product is never formed
    r ≥ max(k, n)/2: one full D (k, n) in place of BA

Identity at t=0: B (or D) = 0, so the added term is exactly 0. C and A are kaiming-uniform with a=√5.
Deviates from paper: C is always a full matrix. With D, s stays alpha/r as in PEFT; the authors' code takes 1.
Refs: the authors' code for the start, which PEFT calls init_weights="lycoris" (its default starts at C = 0), and for
    l and m: `factor` where it divides the size, else the largest divisor up to it and up to the square root. The cheap
    order is A, then C on what is r wide, then B. PEFT forms the product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from adapters._contract import Config, Scaling, Shape, Variant, bounded


@dataclass(frozen=True, kw_only=True)
class LoKrConfig(Config):
    """r: rank of BA. alpha: numerator of the scale (None: r). scaling: alpha/r or alpha/√r.

    factor: l and m, where it divides o and i; None: near their square roots.
    """

    r: int = bounded(32, lo=1)
    alpha: float | None = bounded(64.0, above=0)
    scaling: Scaling = Scaling.standard
    factor: int | None = bounded(4, lo=1)


def split(size: int, factor: int | None) -> tuple[int, int]:
    """(l, k) with l·k = size."""
    if factor is not None and size % factor == 0:
        return factor, size // factor
    limit = min(size if factor is None else factor, math.isqrt(size))
    l = max(d for d in range(1, limit + 1) if size % d == 0)  # noqa: E741
    return l, size // l


class LoKr(Variant):
    Config = LoKrConfig
    paper = "2309.14859"

    @classmethod
    def shapes(cls, cfg: LoKrConfig, o: int, i: int) -> dict[str, Shape]:
        (l, k), (m, n) = split(o, cfg.factor), split(i, cfg.factor)  # noqa: E741
        low_rank = 2 * cfg.r < max(k, n)
        D: dict[str, Shape] = {"lora_A": (cfg.r, n), "lora_B": (k, cfg.r)} if low_rank else {"lora_D": (k, n)}
        return {"lora_C": (l, m)} | D

    def init(self, generator: torch.Generator, moment: Tensor | None) -> None:
        for name in self.parameters().keys() - {"lora_B", "lora_D"}:
            nn.init.kaiming_uniform_(getattr(self, name), a=math.sqrt(5), generator=generator)

    def product(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """C, and D or A and B, in `dtype`."""
        names = ("lora_C", "lora_D") if hasattr(self, "lora_D") else ("lora_C", "lora_A", "lora_B")
        return tuple(getattr(self, name).to(dtype) for name in names)

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        C, D, *B = self.cached(f"product {x.dtype}", lambda: self.product(x.dtype))
        X = F.linear(x.reshape(-1, C.shape[1], D.shape[1]), D)  # (t, m, r or k), t the tokens of *B
        X = torch.bmm(C.expand(len(X), -1, -1), X)  # (t, l, r or k); in the narrow middle of BA, and in y's layout
        change = F.linear(X, *B) if B else X  # (t, l, k)
        return torch.add(y, change.reshape(y.shape), alpha=self.scale)
