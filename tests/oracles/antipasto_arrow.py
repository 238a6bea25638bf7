"""AntiPaSTO-Arrow: a dense block and a diagonal."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.dense import Dense, Layer, plain

COUNT = 17_472
SMALL = {"block": 3}
SETTINGS = [{"block": 8}]


def dense(L: Layer) -> Dense:
    U, S, Vh = plain(L, calibrated=False)
    core = torch.block_diag(L.cfg.coeff * L.t["lora_M"], torch.diag(F.elu(L.cfg.coeff * L.t["lora_g"])))
    return L.W + U @ core @ torch.diag(S) @ Vh, L.b
