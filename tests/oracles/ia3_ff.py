"""IA3 (arXiv 2205.05638) on inputs."""

from __future__ import annotations

import torch

from tests.dense import Dense, Layer

COUNT = 86_016
PEFT = {"ia3_ff": ("IA3Config", {"target_modules": ["down_proj"], "feedforward_modules": ["down_proj"]})}


def dense(L: Layer) -> Dense:
    return L.W @ torch.diag(1 + L.t["lora_delta"]), L.b
