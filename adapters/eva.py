"""EVA: One Initialization to Rule them All: Fine-tuning via Explained Variance Adaptation (Paischer et al. 2024,
arXiv 2410.07170).

    y' = y + s·B(Ax),   A (r, i), B (o, r),   s = alpha/r  (or alpha/√r)
    A₀ = top-r eigenvectors (rows) of C = Cov[x], the layer's inputs over calibration tokens

The inputs are centred, as in the paper and in PEFT: the mean of a transformer's activations is large, and would take
the first direction. `centre=false` takes C = E[xxᵀ] instead, which is what a linear layer sees.

Identity at t=0: B = 0, so the added term is exactly 0.
Deviates from paper: C is exact instead of an incremental SVD over batches. `rho` > 1 shares out the ranks by explained
    variance λ_j/Σλ, at most ⌊rho·r⌋ and (here) at least 1 a layer, and (here) only between layers of the same shape,
    so that the number of parameters stays that of a uniform r. s stays that of the uniform r too, as in PEFT.
Refs: section 3.1 and 3.2 (rank redistribution). Rows of A beyond the rank of C meet no calibration input; they are any
    orthonormal completion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from adapters._bases import eigenvectors
from adapters._contract import Calibration, Config, Scaling, Shape, Variant, bounded, wide
from adapters._errors import AdapterError, problem
from adapters._fields import with_rank

if TYPE_CHECKING:
    from adapters._calibration import Moments


@dataclass(frozen=True, kw_only=True)
class EVAConfig(Config):
    """r: rank, on average with rho > 1. alpha: numerator of the scale (None: r). rho: largest rank is ⌊rho·r⌋.

    centre: directions of the inputs' covariance; False: of their second moment, whose first is mostly the mean.
    """

    r: int = bounded(32, lo=1)
    alpha: float | None = bounded(64.0, above=0)
    scaling: Scaling = Scaling.standard
    rho: float = bounded(1.0, lo=1)
    centre: bool = True


class EVA(Variant):
    Config = EVAConfig
    paper = "2410.07170"

    @classmethod
    def shapes(cls, cfg: EVAConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_A": (cfg.r, i), "lora_B": (o, cfg.r)}

    @classmethod
    def calibration(cls, cfg: EVAConfig) -> Calibration:
        return Calibration.required

    @classmethod
    def centred(cls, cfg: EVAConfig) -> bool:
        return cfg.centre

    @classmethod
    def distribute(
        cls, cfgs: dict[str, EVAConfig], shapes: Mapping[str, tuple[int, int]], moments: Moments | None
    ) -> dict[str, EVAConfig]:
        if moments is None:
            return cfgs
        for n, cfg in cfgs.items():
            _ = moments[n]  # tokens are known from here on
            if moments.tokens[n] < cfg.r + cfg.centre:  # the mean takes one
                what = f"fewer calibration tokens than the rank at layer {n}"
                expected = f">= r={cfg.r}" + (" + 1, for the mean" if cfg.centre else "")
                remedy = "Give more batches or a smaller r."
                raise AdapterError(problem("eva", what, got=moments.tokens[n], expected=expected, remedy=remedy))
        shared = dict(cfgs)
        for shape in dict.fromkeys(shapes.values()):
            names = [n for n in cfgs if shapes[n] == shape]
            cfg = cfgs[names[0]]
            if cfg.rho == 1:
                continue
            largest = min(int(cfg.rho * cfg.r + 1e-9), *shape)
            ranks = shared_out(cfg.r, largest, {n: explained(moments[n]) for n in names})
            shared |= {n: with_rank(cfg, r) for n, r in ranks.items()}
        return shared

    def init(self, generator: torch.Generator, moment: Float[Tensor, "i i"] | None) -> None:
        if moment is not None:
            _, V = eigenvectors(moment)  # (i, i)
            self.lora_A.copy_(V[:, : self.cfg.r].T)

    def factors(self) -> tuple[Float[Tensor, "o r"], Float[Tensor, "r i"]]:
        return self.scale * self.lora_B.to(wide(self.lora_B.dtype)), self.lora_A  # a bf16 s·B would be rounded

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        A, B = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        return y + self.scale * F.linear(F.linear(x, A), B)


def explained(C: Float[Tensor, "i i"]) -> list[float]:
    """λ_j/Σλ, descending; zeros for inputs that are always zero."""
    values, _ = eigenvectors(C)
    ratios: list[float] = (values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)).tolist()
    return ratios


def shared_out(r: int, largest: int, ratios: dict[str, list[float]]) -> dict[str, int]:
    """Ranks from 1 to `largest` with the sum r·len(ratios), given to the directions that explain most."""
    ranks = dict.fromkeys(ratios, 1)
    candidates = [(-ratio, j, n) for n, of_layer in ratios.items() for j, ratio in enumerate(of_layer[1:largest])]
    for _, _, n in sorted(candidates)[: (r - 1) * len(ratios)]:
        ranks[n] += 1
    return ranks
