"""GraLoRA: Granular Low-Rank Adaptation (Jung et al. 2025, arXiv 2505.20355).

    y'_b = y_b + s·Σ_a B_ba A_ab x_a,   A_ab (r/k, i/k), B_ba (o/k, r/k),   a, b = 1 … k,   s = alpha/r

W is cut into k × k blocks, and each has a LoRA of rank r/k: LoRA's number of parameters, a rank of up to k·r.

Identity at t=0: every B_ba = 0, so the added term is exactly 0.
Deviates from paper: no Hybrid GraLoRA, which adds a plain LoRA; no dropout. scaling=rslora (alpha/√r, arXiv 2312.03732)
    is not in the paper.
Refs: PEFT advises k = 2 up to rank 32 and 4 from 64 on. A is kaiming-uniform with a=√5 over a block's i/k inputs, as
    there: U(±√(k/i)). The layout is PEFT's too: lora_A[a] (i/k, r) holds A_a1ᵀ … A_akᵀ side by side, lora_B[b] (r, o/k)
    holds B_b1ᵀ … B_bkᵀ one below the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adapters._contract import Config, Scaling, Shape, Variant, bounded, wide
from adapters._errors import AdapterError, problem


@dataclass(frozen=True, kw_only=True)
class GraLoRAConfig(Config):
    """r: k times a block's rank. alpha: numerator of the scale (None: r). k: blocks a side; divides r, o and i."""

    r: int = bounded(32, lo=1)
    alpha: float | None = bounded(64.0, above=0)
    scaling: Scaling = Scaling.standard
    k: int = bounded(2, lo=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.r % self.k:
            raise AdapterError(
                problem(type(self).__name__, "r out of range", got=self.r, expected=f"a multiple of k = {self.k}")
            )


class GraLoRA(Variant):
    Config = GraLoRAConfig
    paper = "2505.20355"

    @classmethod
    def shapes(cls, cfg: GraLoRAConfig, o: int, i: int) -> dict[str, Shape]:
        k = cfg.k
        if o % k or i % k:
            what, expected = "k does not fit a layer", f"a divisor of the layer's {o} outputs and {i} inputs"
            raise AdapterError(problem(type(cfg).__name__, what, got=k, expected=expected))
        return {"lora_A": (k, i // k, cfg.r), "lora_B": (k, cfg.r, o // k)}

    def init(self, generator: torch.Generator, moment: Tensor | None) -> None:
        bound = (self.cfg.k / self.i) ** 0.5
        nn.init.uniform_(self.lora_A, -bound, bound, generator=generator)

    def factors(self) -> tuple[Float[Tensor, "o kr"], Float[Tensor, "kr i"]]:
        k, kind = self.cfg.k, wide(self.lora_B.dtype)
        own = torch.eye(k, dtype=kind, device=self.lora_B.device)
        B = self.scale * torch.unflatten(self.lora_B.to(kind), 1, (k, -1))  # (b, a, r/k, o/k)
        P = torch.einsum("bano,bc->boacn", B, own).reshape(self.o, -1)
        return P, torch.einsum("air,ac->arci", self.lora_A.to(kind), own).reshape(-1, self.i)

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        k, A, B = self.cfg.k, self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        inputs = x.reshape(-1, k, self.i // k).transpose(0, 1)  # (a, n, i/k), n rows
        h = torch.unflatten(inputs @ A, -1, (k, -1))  # (a, n, b, r/k)
        h = h.permute(2, 1, 0, 3).flatten(2)  # (b, n, r)
        change = (h @ B).transpose(0, 1)  # (n, b, o/k)
        return torch.add(y.reshape(-1, k, self.o // k), change, alpha=self.scale).reshape(y.shape)
