"""HRA (arXiv 2405.17484): one reflection after the other."""

from __future__ import annotations

import torch

from tests.dense import Dense, Layer

COUNT = 1_835_008
PEFT = {"hra": ("HRAConfig", {"r": 4})}


def dense(L: Layer) -> Dense:
    W, eye = L.W, torch.eye(L.W.shape[1], dtype=L.W.dtype)
    for u in L.t["lora_U"]:
        W = W @ (eye - 2 * torch.outer(u, u) / u.dot(u))
    return W, L.b
