"""LoRA: Low-Rank Adaptation of Large Language Models (Hu et al. 2021, arXiv 2106.09685).

    y' = y + s·B(Ax),   A (r, i), B (o, r),   s = alpha/r  (or alpha/√r with scaling=rslora, arXiv 2312.03732)

Identity at t=0: B = 0, so the added term is exactly 0.
Deviates from paper: A is kaiming-uniform with a=√5 (U(±1/√i)), as in the authors' code and PEFT; the paper says
    Gaussian. No dropout.
Refs: eq. 3 of the paper; Kalajdzievski 2023 for the rank-stabilised scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from adapters._contract import Config, Scaling, Shape, Variant, bounded, wide


@dataclass(frozen=True, kw_only=True)
class LoRAConfig(Config):
    """r: rank. alpha: numerator of the scale (None: r). scaling: standard alpha/r, rslora alpha/√r."""

    r: int = bounded(32, lo=1)
    alpha: float | None = bounded(64.0, above=0)
    scaling: Scaling = Scaling.standard


class LoRA(Variant):
    Config = LoRAConfig
    paper = "2106.09685"

    @classmethod
    def shapes(cls, cfg: LoRAConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_A": (cfg.r, i), "lora_B": (o, cfg.r)}

    def init(self, generator: torch.Generator, moment: Tensor | None) -> None:
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5), generator=generator)

    def factors(self) -> tuple[Float[Tensor, "o r"], Float[Tensor, "r i"]]:
        return self.scale * self.lora_B.to(wide(self.lora_B.dtype)), self.lora_A  # a bf16 s·B would be rounded

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        A, B = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        return y + self.scale * F.linear(F.linear(x, A), B)
