"""AntiPaSTO-DPLR: a diagonal plus a low-rank core."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.dense import Dense, Layer, plain

COUNT = 243_712
SMALL = {"lora_rank": 3}


def dense(L: Layer) -> Dense:
    U, S, Vh = plain(L, calibrated=False)
    c = L.cfg.coeff
    core = torch.diag(S * F.elu(c * L.t["lora_g"])) + c * L.t["lora_B"] @ L.t["lora_A"]
    return L.W + U @ core @ Vh, L.b
