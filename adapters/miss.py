"""MiSS: Matrix Shard Sharing (Kang and Yin 2024, arXiv 2409.15371, whose first version is called Bone).

    y' = y + Dᵀz,   z (r,) = Σ over shards of x,   D (r, o)

x is cut into shards of r neighbours, x₀…x_{r−1}, x_r…x_{2r−1}, …, so every shard shares one D; a last one that is
shorter counts as filled up with zeros. With `mini` = m, D is (r, m), and the outputs share it too: output n has column
n mod m.

Identity at t=0: D = 0, so the added term is exactly 0.
Deviates from paper: neither Bat, whose update also depends on W, nor dropout. `mini` is PEFT's init_weights="mini".
Refs: the shards' layout is PEFT's. There is one factor only, hence no scale and no random start.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from adapters._contract import Config, Shape, Variant, bounded, wide
from adapters._errors import AdapterError, problem


@dataclass(frozen=True, kw_only=True)
class MiSSConfig(Config):
    """r: length of a shard. mini: m, a divisor of the layer's outputs, or None for o: each output its own column."""

    r: int = bounded(64, lo=1)
    mini: int | None = bounded(None, lo=1)


class MiSS(Variant):
    Config = MiSSConfig
    paper = "2409.15371"

    @classmethod
    def shapes(cls, cfg: MiSSConfig, o: int, i: int) -> dict[str, Shape]:
        m = o if cfg.mini is None else cfg.mini
        if o % m:
            what, expected = "mini does not fit a layer", f"a divisor of the layer's {o} outputs"
            raise AdapterError(problem(cfg.__class__.__name__, what, got=m, expected=expected))
        return {"lora_D": (cfg.r, m)}

    def factors(self) -> tuple[Float[Tensor, "o r"], Float[Tensor, "r i"]]:
        D = self.lora_D.to(wide(self.lora_D.dtype))
        r, m = D.shape
        shards = torch.eye(r, dtype=D.dtype, device=D.device).repeat(1, -(-self.i // r))
        return D.T.repeat(self.o // m, 1), shards[:, : self.i]

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        r, m = self.lora_D.shape
        if self.i % r:
            x = F.pad(x, (0, -self.i % r))
        z = torch.unflatten(x, -1, (-1, r)).sum(-2)  # (*B, r)
        change = z @ self.lora_D.to(x.dtype)  # (*B, m)
        return y + change if m == self.o else (torch.unflatten(y, -1, (-1, m)) + change.unsqueeze(-2)).flatten(-2)
