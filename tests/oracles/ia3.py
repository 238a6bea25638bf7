"""IA3 (arXiv 2205.05638) on outputs."""

from __future__ import annotations

import torch

from tests.dense import Dense, Layer

COUNT = 57_344
PEFT = {"ia3": ("IA3Config", {"target_modules": ["k_proj", "v_proj"], "feedforward_modules": []})}


def dense(L: Layer) -> Dense:
    gate = 1 + L.t["lora_delta"]
    return torch.diag(gate) @ L.W, None if L.b is None else gate * L.b
