"""LoRA-XS: Low-Rank Adaptation with Extremely Small Number of Parameters (Bałazy et al. 2024, arXiv 2405.17604).

    W ≈ U·diag(S)·Vh (top r) frozen;   y' = y + s·U R (S∘Vh x),   R (r, r),   s = alpha/r

Identity at t=0: to about 1e-4 only. R starts at N(0, 1e-5²), as in the paper.
Deviates from paper: in notation only (row vectors there: its factor with Σ is the one that meets the input).
Refs: section 3; alpha = r (s = 1) as in the authors' math experiments. Weight decay pulls to R = 0, the identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from adapters._bases import top_r
from adapters._contract import Config, Scaling, Shape, Variant, bounded, wide


@dataclass(frozen=True, kw_only=True)
class LoRAXSConfig(Config):
    """r: singular directions mixed. alpha: numerator of the scale (None: r). scaling: alpha/r or alpha/√r."""

    r: int = bounded(32, lo=1)
    alpha: float | None = bounded(None, above=0)
    scaling: Scaling = Scaling.standard


class LoRAXS(Variant):
    Config = LoRAXSConfig
    paper = "2405.17604"
    identity_atol = 2e-4  # fp32; 9e-3 in bf16

    @classmethod
    def shapes(cls, cfg: LoRAXSConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_R": (cfg.r, cfg.r)}

    def init(self, generator: torch.Generator, moment: Tensor | None) -> None:
        nn.init.normal_(self.lora_R, std=1e-5, generator=generator)

    def basis(self, W: Float[Tensor, "o i"], moment: Tensor | None) -> dict[str, Tensor]:
        U, S, Vh, _ = top_r(W, self.cfg.r)
        return {"basis_U": U, "basis_S": S, "basis_Vh": Vh}

    def core(self) -> Float[Tensor, "r r"]:
        """s·R·diag(S), in the wider of fp32 and the activations' dtype."""
        return self.scale * self.lora_R.to(wide(self.basis_S.dtype, self.lora_R.dtype)) * self.basis_S

    def factors(self) -> tuple[Float[Tensor, "o r"], Float[Tensor, "r i"]]:
        core = self.core()
        return self.basis_U.to(core.dtype) @ core, self.basis_Vh

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        core = self.core()
        p = F.linear(x, self.basis_Vh.to(x.dtype)).to(core.dtype)  # (*B, r)
        return y + F.linear(F.linear(p, core).to(x.dtype), self.basis_U.to(x.dtype))
