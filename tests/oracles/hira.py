"""HiRA (ICLR 2025, openreview TwJrTz9cRS), section 3."""

from __future__ import annotations

from typing import Any

import torch

from tests.dense import Dense, Layer

COUNT = 4_587_520
PEFT = {
    "hira": ("HiraConfig", {"r": 4, "hira_dropout": 0.1}),
    "hira regex": ("HiraConfig", {"r": 2, "target_modules": r".*\.0\..*(q|up)_proj", "init_weights": "gaussian"}),
}
TWINS = {"hira": ({}, "HiraConfig", {"r": 8})}


def dense(L: Layer) -> Dense:
    product = torch.einsum("or,ri->oi", L.t["lora_B"], L.t["lora_A"])
    return L.W * (1 + product), L.b


def pairs(site: Any, layer: Any) -> dict[str, Any]:
    return {f"lora_{k}": (getattr(layer, f"hira_{k}")["default"], lambda t: t, lambda g: g) for k in "AB"}
