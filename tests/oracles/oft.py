"""OFT (arXiv 2306.07280): Cayley's transform block by block, or its Neumann series power by power."""

from __future__ import annotations

import torch

from tests.dense import Dense, Layer

COUNT = 888_832
SMALL = {"block": 4}
SETTINGS = [{"share": True}, {"terms": 5}]
PEFT = {
    "oft": ("OFTConfig", {"oft_block_size": 4, "use_cayley_neumann": False}),
    "oft series": ("OFTConfig", {"oft_block_size": 8}),
    "oft shared": ("OFTConfig", {"oft_block_size": 4, "num_cayley_neumann_terms": 7, "block_share": True}),
}
EXACT, SERIES = {"oft_block_size": 4, "use_cayley_neumann": False}, {"oft_block_size": 8, "num_cayley_neumann_terms": 6}
TWINS = {
    "oft": ({}, "OFTConfig", EXACT),
    "oft shared": ({"share": True}, "OFTConfig", EXACT | {"block_share": True}),
    "oft series": ({"block": 8, "terms": 6}, "OFTConfig", SERIES),
}


def pairs(site, layer):
    sign = 1 if site.cfg.terms is None else -1
    return {"lora_skew": (layer.oft_R["default"].weight, lambda t: sign * t, lambda g: sign * g)}


def dense(L: Layer) -> Dense:
    b, terms = L.cfg.block, L.cfg.terms
    eye, blocks = torch.eye(b, dtype=L.W.dtype), []
    rows, columns = torch.triu_indices(b, b, 1)
    for v in L.t["lora_skew"]:
        upper = torch.zeros(b, b, dtype=L.W.dtype).index_put((rows, columns), v)
        Q = upper - upper.T
        R = (eye + Q) @ torch.linalg.inv(eye - Q)
        assert torch.allclose(R @ R.T, eye, atol=1e-12)
        if terms is not None:
            powers = [torch.linalg.matrix_power(Q, n) for n in range(1, terms)]
            R = eye + 2 * sum(powers) - powers[-1]
        blocks.append(R)
    if L.cfg.share:
        blocks *= L.W.shape[1] // b
    return L.W @ torch.block_diag(*blocks), L.b
