"""AntiPaSTO-Arrow: a dense core on the strongest singular directions, a gain on the rest.

    W ≈ U·diag(S)·Vh (top r),  h = S∘(Vh x)
    y' = y + U[c·M h_1..b ; ELU(c·g)∘h_b+1..r],   M (b, b), g (r−b,)

Identity at t=0: M = 0 and g = 0, so the added term is exactly 0. c = `coeff` is a run-time knob; 0 is off.
Deviates from paper: there is none; this variant is this project's own, built on arXiv 2601.07473 (`antipasto`).
Refs: the baseline that `antipasto_dplr` replaces: the core mixes b directions only, and its step grows with S.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from adapters._bases import top_r
from adapters._contract import Config, Shape, Variant, bounded, wide
from adapters._errors import AdapterError, problem


@dataclass(frozen=True, kw_only=True)
class AntiPaSTOArrowConfig(Config):
    """r: singular directions kept. block: b, how many of them the dense core mixes. coeff: strength c."""

    r: int = bounded(256, lo=1)
    block: int = bounded(8, lo=1)
    coeff: float = bounded(1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block > self.r:
            expected = f"at most r = {self.r}"
            raise AdapterError(problem(type(self).__name__, "block out of range", got=self.block, expected=expected))


class AntiPaSTOArrow(Variant):
    Config = AntiPaSTOArrowConfig
    basis_fields = ("r",)

    @classmethod
    def shapes(cls, cfg: AntiPaSTOArrowConfig, o: int, i: int) -> dict[str, Shape]:
        rest = {"lora_g": (cfg.r - cfg.block,)} if cfg.r > cfg.block else {}
        return {"lora_M": (cfg.block, cfg.block), **rest}

    def basis(self, W: Float[Tensor, "o i"], moment: Tensor | None) -> dict[str, Tensor]:
        U, S, Vh, _ = top_r(W, self.cfg.r)
        return {"basis_U": U, "basis_S": S, "basis_Vh": Vh}

    def core_and_gain(self) -> tuple[Float[Tensor, "b b"], Float[Tensor, " rest"]]:
        """c·M·diag(S_1..b) and S∘ELU(c·g) of the rest, in the wider of fp32 and the activations' dtype."""
        S, b = self.basis_S, self.cfg.block
        kind = wide(S.dtype, self.lora_M.dtype)
        M = self.times_coeff(self.lora_M.to(kind)) * S[:b]
        return M, S[b:] * F.elu(self.times_coeff(self.lora_g.to(kind))) if self.cfg.r > b else S[b:]

    def factors(self) -> tuple[Float[Tensor, "o r"], Float[Tensor, "r i"]]:
        M, gain = self.core_and_gain()
        U, b = self.basis_U.to(M.dtype), self.cfg.block
        return torch.cat((U[:, :b] @ M, U[:, b:] * gain), 1), self.basis_Vh

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        b = self.cfg.block
        M, gain = self.core_and_gain()
        p = F.linear(x, self.basis_Vh.to(x.dtype)).to(M.dtype)  # (*B, r)
        z = torch.cat((F.linear(p[..., :b], M), p[..., b:] * gain), -1)  # (*B, r)
        return y + F.linear(z.to(x.dtype), self.basis_U.to(x.dtype))
