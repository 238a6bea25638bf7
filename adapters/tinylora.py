"""TinyLoRA: Learning to Reason in 13 Parameters (Morris et al. 2026, arXiv 2602.04118).

    W ≈ U·diag(S)·Vh (top r) frozen;   y' = y + U(S∘R(Vh x)),   R = Σⱼ vⱼPⱼ (r, r),   v (u,) trains
    P (u, r, r) frozen and random, another one for every layer; `tie` neighbouring layers share one v

Identity at t=0: v = 0, so the added term is exactly 0.
Deviates from paper: Pⱼ is uniform with variance 1/r (the paper says random, PEFT draws Gaussians of that variance), by
    torch's CPU generator with seed 2¹⁶·seed + the layer's place among the adapted ones: every machine draws the same
    bits, and no checkpoint holds P.
Refs: the paper's update rule W + UΣ(Σⱼ vⱼPⱼ)Vᵀ. PEFT 0.21 puts √S on both sides of R; S stands before R here, as in
    the paper. u > r² does not widen what R can be: it only makes its steps longer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from adapters._bases import top_r
from adapters._contract import Config, Shape, Variant, bounded, wide
from adapters._errors import AdapterError, problem


@dataclass(frozen=True, kw_only=True)
class TinyLoRAConfig(Config):
    """r: singular directions mixed. u: length of v. tie: layers that share one v. seed: of all P."""

    r: int = bounded(2, lo=1)
    u: int = bounded(64, lo=1)
    tie: int = bounded(1, lo=1)
    seed: int = bounded(0, lo=0, hi=(1 << 32) - 1)


class TinyLoRA(Variant):
    Config = TinyLoRAConfig
    basis_fields = ("r", "u", "seed")
    paper = "2602.04118"

    @classmethod
    def distribute(cls, cfgs: dict[str, Any], shapes: Mapping[str, tuple[int, int]], moments: Any) -> dict[str, Any]:
        """Seeds of the layers: the configured one in the high bits, their places in the low ones."""
        for cfg in cfgs.values():
            if cfg.seed >= 1 << 16:
                where, expected = type(cfg).__name__, "an integer >= 0 and <= 65535"
                raise AdapterError(problem(where, "seed out of range", got=cfg.seed, expected=expected))
        return {name: replace(cfg, seed=(cfg.seed << 16) + n) for n, (name, cfg) in enumerate(cfgs.items())}

    @classmethod
    def tied(cls, cfg: TinyLoRAConfig) -> int | None:
        return None if cfg.tie == 1 else cfg.seed % (1 << 16) // cfg.tie

    @classmethod
    def shapes(cls, cfg: TinyLoRAConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_v": (cfg.u,)}

    def basis(self, W: Float[Tensor, "o i"], moment: Tensor | None) -> dict[str, Tensor]:
        r = self.cfg.r
        U, S, Vh, _ = top_r(W, r)
        bound, generator = math.sqrt(3 / r), torch.Generator().manual_seed(self.cfg.seed)
        P = torch.empty(self.cfg.u, r, r).uniform_(-bound, bound, generator=generator)
        return {"basis_U": U * S, "basis_Vh": Vh, "basis_P": P}

    def factors(self) -> tuple[Float[Tensor, "o r"], Float[Tensor, "r i"]]:
        """P = U·diag(S)·R, in the wider of fp32 and the parameters' dtype; Q = Vh."""
        dtype = wide(self.lora_v.dtype)
        core = self.lora_v.to(self.basis_P.device, dtype) @ self.basis_P.to(dtype).flatten(1)  # (r·r,)
        return self.basis_U.to(dtype) @ core.view(self.cfg.r, -1), self.basis_Vh

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        P, Vh = self.factors()
        return y + F.linear(F.linear(x, Vh.to(x.dtype)), P.to(x.dtype))
