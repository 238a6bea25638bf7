"""LoKr (LyCORIS, arXiv 2309.14859): the Kronecker product itself. COUNT: r=32, factor=4, as in PEFT's comparison."""

from __future__ import annotations

import torch

from tests.dense import Dense, Layer, scale

COUNT = 28 * (2 * 4 * 4 + 32 * (512 + 256) + 32 * (256 + 256))
SETTINGS = [{"r": 1}, {"r": 2, "factor": 3, "alpha": 4.0, "scaling": "rslora"}, {"factor": None}]
PEFT = {
    "lokr": ("LoKrConfig", {"r": 4, "alpha": 6, "init_weights": "lycoris"}),
    "lokr low-rank": ("LoKrConfig", {"r": 2, "alpha": 6, "decompose_factor": 2}),
    "lokr patterns": (
        "LoKrConfig",
        {"r": 2, "decompose_factor": 2, "rank_pattern": {"v_proj": 3}, "alpha_pattern": {"q_proj": 5}},
    ),
}
TWINS = {
    "lokr": ({"r": 8, "alpha": 12.0}, "LoKrConfig", {"r": 8, "alpha": 12.0, "decompose_factor": 4}),
    "lokr low-rank": ({"r": 2, "alpha": 3.0, "factor": 3}, "LoKrConfig", {"r": 2, "alpha": 3.0, "decompose_factor": 3}),
    "lokr square": ({"r": 1, "alpha": 1.0, "factor": None}, "LoKrConfig", {"r": 1, "alpha": 1.0}),
}


def pairs(site, layer):
    theirs = {"lora_C": "lokr_w1", "lora_D": "lokr_w2", "lora_B": "lokr_w2_a", "lora_A": "lokr_w2_b"}
    return {k: (getattr(layer, theirs[k])["default"], lambda t: t, lambda g: g) for k in site.parameters()}


def dense(L: Layer) -> Dense:
    D = L.t["lora_D"] if "lora_D" in L.t else L.t["lora_B"] @ L.t["lora_A"]
    return L.W + scale(L.cfg) * torch.kron(L.t["lora_C"], D), L.b
