"""OFT: Orthogonal Finetuning (Qiu et al. 2023, arXiv 2306.07280).

    W' = W R,  R = blockdiag(R₁ … R_n):   y' = base(x Rᵀ),   R_j = (I + Q_j)(I − Q_j)⁻¹ (Cayley)
    Q_j (b, b) skew-symmetric, from the b(b − 1)/2 numbers above its diagonal;  n = i/b, or one Q for all (`share`)

Identity at t=0: Q = 0, and x changes by x(R − I)ᵀ with R − I = 2(I − Q)⁻¹Q, exactly 0.
Deviates from paper: neither the constraint ‖R − I‖ ≤ ε (COFT) nor a magnitude fitted afterwards. The paper has
    W' = W Rᵀ: Q with the other sign. `terms` (t) replaces the inverse by its Neumann series, as PEFT does by default
    (t = 5): R ≈ I + 2Q + … + 2Qᵗ⁻² + Qᵗ⁻¹, which is orthogonal only to O(‖Q‖ᵗ⁻¹). The default here is exact.
Refs: section 3 of the paper. PEFT 0.21 takes R(Q) without `use_cayley_neumann` and R(−Q) with it. `solve_ex` because
    `solve` waits for the device to report errors; I − Q cannot be singular.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from adapters._contract import Config, Shape, Variant, bounded, wide
from adapters._errors import AdapterError, problem


@dataclass(frozen=True, kw_only=True)
class OFTConfig(Config):
    """block: inputs turned together, a divisor of the layer's. share: one rotation for all blocks of a layer.

    terms: of the Neumann series; None: exact.
    """

    block: int = bounded(32, lo=2)
    share: bool = False
    terms: int | None = bounded(None, lo=4)


class OFT(Variant):
    Config = OFTConfig
    paper = "2306.07280"

    @classmethod
    def shapes(cls, cfg: OFTConfig, o: int, i: int) -> dict[str, Shape]:
        if i % cfg.block:
            what, expected = "block does not fit a layer", f"a divisor of the layer's {i} inputs"
            raise AdapterError(problem(cfg.__class__.__name__, what, got=cfg.block, expected=expected))
        return {"lora_skew": (1 if cfg.share else i // cfg.block, cfg.block * (cfg.block - 1) // 2)}

    def turn(self, dtype: torch.dtype) -> Float[Tensor, "n b b"]:
        """(R − I)ᵀ of each block, computed in the wider of fp32 and `dtype`."""
        b, v = self.cfg.block, self.lora_skew.to(wide(dtype))
        rows, columns = torch.triu_indices(b, b, 1, device=v.device)
        upper = v.new_zeros(len(v), b, b)
        upper[:, rows, columns] = v
        Q = upper.mT - upper  # (n, b, b): −Q, whose R is Rᵀ
        if self.cfg.terms is None:
            identity = torch.eye(b, dtype=Q.dtype, device=Q.device)
            solved: Tensor = torch.linalg.solve_ex(identity - Q, 2 * Q)[0]
            return solved.to(dtype)
        series = Q
        for _ in range(self.cfg.terms - 2):
            series = torch.baddbmm(Q, Q, series, beta=2)
        return series.to(dtype)

    def forward_input(self, x: Float[Tensor, "*B i"]) -> Float[Tensor, "*B i"]:
        turn = self.cached(f"turn {x.dtype}", lambda: self.turn(x.dtype))
        blocks = torch.unflatten(x, -1, (-1, self.cfg.block))  # (*B, i/b, b)
        return (blocks + torch.einsum("...nk,nkl->...nl", blocks, turn)).flatten(-2)
