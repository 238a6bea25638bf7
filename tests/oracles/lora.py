"""LoRA (arXiv 2106.09685), eq. 3."""

from __future__ import annotations

from tests.dense import Dense, Layer, scale

COUNT = 4_587_520
SETTINGS = [{"scaling": "rslora"}]


def dense(L: Layer) -> Dense:
    return L.W + scale(L.cfg) * L.t["lora_B"] @ L.t["lora_A"], L.b
