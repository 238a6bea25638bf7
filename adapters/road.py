"""RoAd: 2D Rotary Adaptation (Liao and Monz 2024, arXiv 2409.00119).

    y'₁ = α₁cosθ₁·y₁ − α₁sinθ₁·y₂
    y'₂ = α₂sinθ₂·y₁ + α₂cosθ₂·y₂,   α = 1 + lora_scale

for every pair (y₁, y₂) of outputs: within each group of `group_size`, element n pairs with element n + group_size/2.

    kind 1: one θ and α per pair, o/2 of each.   kind 2: one per output, o of each (as written above).
    kind 4: θ and α of their own for the cosine and the sine of each output, 2o of each.

Identity at t=0: θ = 0 and lora_scale = 0, so αcosθ − 1 = (cosθ − 1) + lora_scale·cosθ = 0 and αsinθ = 0 exactly.
Deviates from paper: the scale is stored as its difference from one, so weight decay pulls to identity. y includes the
    bias, as in PEFT. Pairs are half a group apart (PEFT's layout), not neighbours: outputs have no order.
Refs: eq. 4; PEFT's `variant` road_1, road_2, road_4 is `kind` here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from adapters._contract import Config, Shape, Variant, bounded, wide
from adapters._errors import AdapterError, problem


@dataclass(frozen=True, kw_only=True)
class RoadConfig(Config):
    """kind: 1, 2 or 4 angles and scales per pair. group_size: outputs per group; divides the layer's outputs."""

    kind: int = bounded(1, lo=1, hi=4)
    group_size: int = bounded(64, lo=2, multiple=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in (1, 2, 4):
            raise AdapterError(problem(type(self).__name__, "unknown kind", got=self.kind, expected="1, 2 or 4"))


class Road(Variant):
    Config = RoadConfig
    paper = "2409.00119"

    @classmethod
    def shapes(cls, cfg: RoadConfig, o: int, i: int) -> dict[str, Shape]:
        if o % cfg.group_size:
            expected = f"an even divisor of the layer's {o} outputs"
            what = "group_size does not fit a layer"
            raise AdapterError(problem(cfg.__class__.__name__, what, got=cfg.group_size, expected=expected))
        return {"lora_theta": (cfg.kind * o // 2,), "lora_scale": (cfg.kind * o // 2,)}

    def gates(
        self, dtype: torch.dtype, theta: Float[Tensor, "L n"], scale: Float[Tensor, "L n"]
    ) -> tuple[Float[Tensor, "L o"], Float[Tensor, "L o"]]:
        """αcosθ − 1 of each output, and the signed αsinθ by which it enters its partner, in `dtype`."""
        half = self.cfg.group_size // 2
        # kind 4 stores, group after group, all numbers of the cosines and then all of the sines
        shape = (-1, *{1: (1, 1, half), 2: (1, 2, half), 4: (2, 2, half)}[self.cfg.kind])
        angles = theta.to(wide(dtype)).unflatten(1, shape).unbind(2)  # one or two of (L, groups, 1 or 2, half)
        scales = scale.to(wide(dtype)).unflatten(1, shape).unbind(2)
        cosine, sine = angles[0].cos(), angles[-1].sin()
        less_one = torch.addcmul(cosine - 1, cosine, scales[0])  # (L, groups, 1 or 2, half)
        signs = torch.linspace(1, -1, 2, dtype=sine.dtype, device=sine.device).unsqueeze(1)
        signed = signs * torch.addcmul(sine, sine, scales[-1]).flip(2)  # (L, groups, 2, half)
        return less_one.expand_as(signed).flatten(1).to(dtype), signed.flatten(1).to(dtype)

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        less_one, signed = self.together(self.gates, y.dtype, "lora_theta", "lora_scale")
        pairs = torch.unflatten(y * signed, -1, (-1, 2, self.cfg.group_size // 2))  # (*B, groups, 2, half)
        return torch.addcmul(y, y, less_one) + pairs.flip(-2).flatten(-3)  # flipped last: y alone is kept for backward
