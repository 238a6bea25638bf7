"""VeRA: Vector-based Random Matrix Adaptation (Kopiczko et al. 2023, arXiv 2310.11454).

    y' = y + b∘B(d∘Ax),   A (r, i), B (o, r) frozen and random, the same for all layers;  b (o,), d (r,) train

Identity at t=0: b = 0, so the added term is exactly 0; d = `d_initial`.
Deviates from paper: r is at most o and i. Smaller layers take a corner of A and B, as in PEFT, but scaled to the bounds
    √(6/i) and √(6/r) of their own sizes. Row j of A (column j of B) is uniform, from torch's CPU generator with seed
    2¹⁶·seed + 2j (+ 1): every machine draws the same bits, and no checkpoint holds A and B. PEFT draws A, then B,
    from one generator; adapters read from its folders keep its A and B (seed None).
Refs: section 3; kaiming-uniform and d = 0.1 as in the authors' experiments. Λ_b B Λ_d is formed, (o, r): fewer kernels
    than two gates on the activations, and no activation to keep for them.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from adapters._contract import Config, Shape, Variant, bounded, wide
from adapters._errors import AdapterError, problem


@dataclass(frozen=True, kw_only=True)
class VeRAConfig(Config):
    """r: rows of A. d_initial: start of d. seed: of A and B; None: they were read from a file, and are stored."""

    r: int = bounded(256, lo=1, hi=1 << 15)
    d_initial: float = bounded(0.1)
    seed: int | None = bounded(0, lo=0, hi=(1 << 16) - 1)


@functools.lru_cache(maxsize=8)
def random_rows(rows: int, n: int, first: int, bound: float) -> Float[Tensor, "rows n"]:
    """Row j uniform in ±bound, from a generator seeded with first + 2j. One tensor for all layers of a shape."""
    generator, drawn = torch.Generator(), torch.empty(rows, n)
    for j, row in enumerate(drawn):
        row.uniform_(-bound, bound, generator=generator.manual_seed(first + 2 * j))
    return drawn


class VeRA(Variant):
    Config = VeRAConfig
    basis_reads_weight = False
    paper = "2310.11454"

    @classmethod
    def shapes(cls, cfg: VeRAConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_b": (o,), "lora_d": (cfg.r,)}

    def init(self, generator: torch.Generator, moment: Tensor | None) -> None:
        self.lora_d.fill_(self.cfg.d_initial)

    @classmethod
    def stored_basis(cls, cfg: VeRAConfig, calibrated: bool, o: int, i: int) -> dict[str, Shape]:
        return {} if cfg.seed is not None else {"basis_A": (cfg.r, i), "basis_Bt": (cfg.r, o)}

    def basis(self, W: Float[Tensor, "o i"], moment: Tensor | None) -> dict[str, Tensor]:
        r, seed = self.cfg.r, self.cfg.seed
        if seed is None:
            what, remedy = "seed is None, which stands for A and B of a file", "Give a seed."
            raise AdapterError(problem(type(self.cfg).__name__, what, remedy=remedy))
        A = random_rows(r, self.i, seed << 16, math.sqrt(6 / self.i))
        return {"basis_A": A, "basis_Bt": random_rows(r, self.o, (seed << 16) + 1, math.sqrt(6 / r))}

    def factors(self) -> tuple[Float[Tensor, "o r"], Float[Tensor, "r i"]]:
        """P = Λ_b B Λ_d = B∘(b dᵀ), in the wider of fp32 and the parameters' dtype; Q = A."""
        dtype = wide(self.lora_b.dtype)
        # (r, o), as a matmul: its gradients are two thin ones then, where those of two gates are products and sums
        outer = self.lora_d.to(dtype)[:, None] @ self.lora_b.to(dtype)[None]
        return (self.basis_Bt * outer).T, self.basis_A

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        P, A = self.factors()
        return y + F.linear(F.linear(x, A.to(x.dtype)), P.to(x.dtype))
