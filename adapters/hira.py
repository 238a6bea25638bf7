"""HiRA: Hadamard High-Rank Adaptation (Huang et al., ICLR 2025, openreview.net/forum?id=TwJrTz9cRS).

    W' = W + W∘(BA):   y' = y + (W∘BA)x,   A (r, i), B (o, r)

The rank of a product by elements can reach the product of both ranks: ΔW has a high rank, for LoRA's parameters.

Identity at t=0: B = 0, so W∘BA and the added term are exactly 0.
Deviates from paper: A is kaiming-uniform with a=√5 (U(±1/√i)), as LoRA's and as in PEFT. No dropout. W is the dense
    weight of the layer: of a quantized one, what its codes stand for, as in PEFT.
Refs: neither paper nor PEFT has a scale; entries of W are small, so learning rates are larger than LoRA's (4.5e-3 in
    PEFT's comparison). W∘BA has no thin factors: a layer builds it, (o, i) in the activations' dtype, in the forward
    pass and again in the backward pass, and drops it; if quantized, also W in fp32. In a `frozen()` block one such
    matrix stays for each adapted layer: the bytes those layers would have unquantized.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from adapters._contract import Config, Shape, Variant, bounded
from adapters._recompute import linear_of
from adapters._weights import dense_weight


@dataclass(frozen=True, kw_only=True)
class HiRAConfig(Config):
    """r: rank of BA."""

    r: int = bounded(32, lo=1)


class HiRA(Variant):
    Config = HiRAConfig

    @classmethod
    def shapes(cls, cfg: HiRAConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_A": (cfg.r, i), "lora_B": (o, cfg.r)}

    def init(self, generator: torch.Generator, moment: Tensor | None) -> None:
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5), generator=generator)

    def change(self, A: Float[Tensor, "r i"], B: Float[Tensor, "o r"]) -> Float[Tensor, "o i"]:
        """W∘BA in the dtype of A and B."""
        return dense_weight(self.layer).to(A.dtype) * (B @ A)

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        A, B = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        if torch.is_grad_enabled():
            return y + linear_of(x, self.change, A, B)
        return y + F.linear(x, self.cached(f"change {x.dtype}", lambda: self.change(A, B)))
