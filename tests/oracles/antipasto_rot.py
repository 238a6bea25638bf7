"""AntiPaSTO-Rot (arXiv 2601.07473): Cayley rotations of 4×4 blocks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from tests.dense import Dense, Layer, plain

COUNT = 35_840
SETTINGS = [{"coeff": -0.7}]


def dense(L: Layer) -> Dense:
    U, S, Vh = plain(L, calibrated=False)
    limit, eye, blocks = 2 * math.tan(0.25), torch.eye(4, dtype=L.W.dtype), []
    rows, columns = torch.triu_indices(4, 4, 1)
    for v in L.t["lora_skew"]:
        upper = torch.zeros(4, 4, dtype=L.W.dtype).index_put((rows, columns), v)
        A = (upper - upper.T) / (1 + v.dot(v) / limit**2).sqrt()
        assert torch.linalg.matrix_norm(A, 2) <= limit
        A = L.cfg.coeff * A
        blocks.append(torch.linalg.solve(eye - A / 2, eye + A / 2))
    R = torch.block_diag(*blocks)
    assert torch.allclose(R @ R.T, torch.eye(len(R), dtype=R.dtype), atol=1e-12)
    gained = torch.diag(S * (1 + F.elu(L.cfg.coeff * L.t["lora_g"])))
    return L.W + U @ (gained @ R - torch.diag(S)) @ Vh, L.b
