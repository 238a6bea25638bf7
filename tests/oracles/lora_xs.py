"""LoRA-XS (arXiv 2405.17604)."""

from __future__ import annotations

import torch

from tests.dense import Dense, Layer, plain, scale

COUNT = 57_344
SETTINGS = [{"alpha": 3.0}]
BF16_ATOL = 9e-3


def dense(L: Layer) -> Dense:
    U, S, Vh = plain(L, calibrated=False)
    return L.W + scale(L.cfg) * U @ L.t["lora_R"] @ torch.diag(S) @ Vh, L.b
