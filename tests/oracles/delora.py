"""DeLoRA (arXiv 2503.18225), section 3."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.dense import Dense, Layer

COUNT = 4_587_576
SETTINGS = [{"residual_init": True}]
PEFT = {
    "delora": ("DeloraConfig", {"r": 4, "delora_lambda": 3}),
    "delora patterns": ("DeloraConfig", {"r": 4, "rank_pattern": {"v_proj": 2}}),
}


def dense(L: Layer) -> Dense:
    def change(A: Tensor, B: Tensor, strength: Tensor) -> Tensor:
        xi = torch.diag(1 / (A.norm(dim=1).clamp_min(1e-4) * B.norm(dim=0).clamp_min(1e-4)))
        return strength / L.cfg.r * B @ xi @ A @ torch.diag(L.W.norm(dim=0))

    delta = change(L.t["lora_A"], L.t["lora_B"], L.t["lora_lambda"])
    if L.cfg.residual_init:
        delta = delta - change(L.frozen["basis_A"], L.frozen["basis_B"], L.W.new_tensor([L.cfg.lambda0]))
    return L.W + delta, L.b
