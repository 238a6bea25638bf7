"""AntiPaSTO-Ablate (arXiv 2406.11717)."""

from __future__ import annotations

import torch

from tests.dense import Dense, Layer, oriented, plain

COUNT = 14_392
SETTINGS = [{"k": 3, "coeff": 0.5}, {"cov_orient": True}, {"calibrated": True}]


def dense(L: Layer) -> Dense:
    U, S, Vh = oriented(L, diagonal=False) if L.cfg.cov_orient else plain(L)
    D = L.t["lora_c"]
    Q = D / D.norm() if L.cfg.k == 1 else torch.linalg.qr(D)[0]
    contraction = Q @ torch.diag(L.t["lora_alpha"]) @ Q.T
    return L.W - L.cfg.coeff * U @ contraction @ torch.diag(S) @ Vh, L.b
