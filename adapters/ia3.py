"""(IA)³: Infused Adapter by Inhibiting and Amplifying Inner Activations (Liu et al. 2022, arXiv 2205.05638).

    y' = l ∘ y = y + δ∘y,   l = 1 + δ,   δ (o,)

Identity at t=0: δ = 0, so the added term is exactly 0.
Deviates from paper: the gate is stored as its difference from one, so that weight decay pulls to identity and small
    steps survive (in bf16 a gate at 1.0 does not move at learning rates up to 1e-3). The output side includes the bias.
Refs: section 3.3: keys and values (the default targets); the feed-forward part is `ia3_ff`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from adapters._contract import Config, Shape, Variant


@dataclass(frozen=True, kw_only=True)
class IA3Config(Config):
    """targets: keys and values."""

    targets: Any = "kv"


class IA3(Variant):
    Config = IA3Config
    paper = "2205.05638"

    @classmethod
    def shapes(cls, cfg: IA3Config, o: int, i: int) -> dict[str, Shape]:
        return {"lora_delta": (o,)}

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        return torch.addcmul(y, y, self.cached(f"delta {y.dtype}", lambda: self.lora_delta.to(y.dtype)))
