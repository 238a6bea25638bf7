"""(IA)³ on the feed-forward block's inner activations (Liu et al. 2022, arXiv 2205.05638).

    y' = W(l ∘ x) + b = base(x + δ∘x),   l = 1 + δ,   δ (i,)

Identity at t=0: δ = 0, so the layer's input is exactly the same.
Deviates from paper: the gate is stored as its difference from one, see `ia3`; the paper uses both sides together.
Refs: section 3.3: the input of the second feed-forward layer (the default target, `down_proj`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from adapters._contract import Config, Shape, Variant


@dataclass(frozen=True, kw_only=True)
class IA3FFConfig(Config):
    """targets: the feed-forward block's last layer."""

    targets: Any = r"(^|\.)down_proj$"


class IA3FF(Variant):
    Config = IA3FFConfig
    paper = "2205.05638"

    @classmethod
    def shapes(cls, cfg: IA3FFConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_delta": (i,)}

    def forward_input(self, x: Float[Tensor, "*B i"]) -> Float[Tensor, "*B i"]:
        return torch.addcmul(x, x, self.cached(f"delta {x.dtype}", lambda: self.lora_delta.to(x.dtype)))
