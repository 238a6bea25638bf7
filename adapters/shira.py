"""SHiRA: Sparse High Rank Adapters (Bhardwaj et al. 2024, arXiv 2406.13175).

    W' = W + S:   y' = y + Sx,   S (o, i) zero but for n = r(o + i) trained values at fixed random positions

Identity at t=0: the values are 0, so the added term is exactly 0.
Deviates from paper: the paper's SHiRA-Rand; none of its masks that rank weights or gradients. n is LoRA's number of
    parameters, as in PEFT, and at most o·i; the paper takes 1–2 % of the weights. PEFT draws positions with
    torch.randperm, which no release of torch has to repeat; here an integer hash decides (`positions`).
Refs: layers of one shape share their positions, as with PEFT's `random_seed`. Positions are no part of a
    checkpoint but for adapters from PEFT's files, which have their own: seed None. S is built dense, (o, i) in the
    activations' dtype, in the forward pass and again in the backward pass, whose gradient of it is dense too; in a
    `frozen()` block one S stays for each adapted layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from adapters._contract import Config, Shape, Variant, bounded
from adapters._errors import AdapterError, problem
from adapters._recompute import linear_of

WORD = 0xFFFFFFFF


@dataclass(frozen=True, kw_only=True)
class SHiRAConfig(Config):
    """r: the layer's n is r(o + i), at most o·i. seed: of the positions; None: they come from a file."""

    r: int = bounded(32, lo=1)
    seed: int | None = bounded(0, lo=0, hi=WORD - 1)


class SHiRA(Variant):
    Config = SHiRAConfig
    paper = "2406.13175"
    basis_fields = ("r", "seed")
    basis_reads_weight = False

    @classmethod
    def shapes(cls, cfg: SHiRAConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_values": (min(cfg.r * (o + i), o * i),)}

    def basis(self, W: Float[Tensor, "o i"], moment: Tensor | None) -> dict[str, Tensor]:
        if self.cfg.seed is None:
            what, remedy = "seed=None stands for the positions in a file", "Choose a seed."
            raise AdapterError(problem(type(self.cfg).__name__, what, remedy=remedy))
        (n,) = self.shapes(self.cfg, self.o, self.i)["lora_values"]
        return {"basis_positions": positions(self.cfg.seed, n, self.o * self.i)}

    @classmethod
    def stored_basis(cls, cfg: SHiRAConfig, calibrated: bool, o: int, i: int) -> dict[str, Shape]:
        return {"basis_positions": cls.shapes(cfg, o, i)["lora_values"]} if cfg.seed is None else {}

    def sparse(self, values: Float[Tensor, " n"]) -> Float[Tensor, "o i"]:
        """S, in the dtype of the values."""
        return values.new_zeros(self.o * self.i).scatter(0, self.basis_positions, values).view(self.o, self.i)

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        values = self.lora_values.to(x.dtype)
        if torch.is_grad_enabled():
            return y + linear_of(x, self.sparse, values)
        return y + F.linear(x, self.cached(f"sparse {x.dtype}", lambda: self.sparse(values)))


@lru_cache(maxsize=4)  # a model has few shapes
def positions(seed: int, n: int, size: int) -> Int[Tensor, " n"]:
    """The n of 0 … size − 1, ascending, that have the smallest keys; the same on every machine.

    The key of p is mixed(p ^ mixed(seed + 1)): distinct for distinct p, so there are no ties. size ≤ 2³².
    """
    keys = mixed(torch.arange(size, device="cpu") ^ mixed(torch.tensor(seed + 1, device="cpu")))
    return keys.topk(n, largest=False).indices.sort().values


def mixed(h: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """MurmurHash3's 32-bit finalizer (Appleby 2011, public domain), a bijection on 0 … 2³² − 1."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = h ^ (h >> shift)
        h *= factor  # wraps at 2⁶⁴, which leaves the low 32 bits right
        h &= WORD
    return h ^ (h >> 16)
