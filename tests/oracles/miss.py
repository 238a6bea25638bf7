"""MiSS (arXiv 2409.15371): each shard of r columns of W gets the same change."""

from __future__ import annotations

from typing import Any

import torch

from tests.dense import Dense, Layer

COUNT = 5_505_024  # r = 64; with r = 32 half of it
SETTINGS: list[dict[str, Any]] = [{"mini": 4}, {"r": 5}]
MINI = {"r": 4, "init_weights": "mini", "mini_r": 8}
PEFT = {
    "miss": ("MissConfig", {"r": 4, "miss_dropout": 0.1}),
    "miss ragged": ("MissConfig", {"r": 5}),
    "miss mini": ("MissConfig", MINI),
}
TWINS = {
    "miss": ({}, "MissConfig", {"r": 8}),
    "miss ragged": ({"r": 5}, "MissConfig", {"r": 5}),
    "miss mini": ({"r": 4, "mini": 8}, "MissConfig", MINI),
}


def dense(L: Layer) -> Dense:
    """Number by number: W'[n, c] = W[n, c] + D[c mod r, n mod m]."""
    D = L.t["lora_D"]
    rows = [torch.stack([D[c % len(D), n % D.shape[1]] for c in range(L.W.shape[1])]) for n in range(len(L.W))]
    return L.W + torch.stack(rows), L.b


def pairs(site: Any, layer: Any) -> dict[str, Any]:
    return {"lora_D": (layer.miss_block["default"], lambda t: t, lambda g: g)}
