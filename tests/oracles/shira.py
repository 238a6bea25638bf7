"""SHiRA (arXiv 2406.13175) with a random mask, and positions by the smallest keys of a sorted list."""

from __future__ import annotations

from typing import Any

import torch

from tests.dense import Dense, Layer

COUNT = 4_587_520
SMALL = {"r": 4}
SETTINGS = [{"seed": 12345}, {"r": 12}]  # r = 12: every weight of the toy's layers
PEFT = {"shira": ("ShiraConfig", {"r": 4, "random_seed": 3}), "shira unseeded": ("ShiraConfig", {"r": 2})}
TWINS = {"shira": ({}, "ShiraConfig", {"r": 4})}


def finalized(h: int) -> int:
    """fmix32 of MurmurHash3, in Python's integers."""
    h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
    h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
    return h ^ h >> 16


def dense(L: Layer) -> Dense:
    o, i = L.W.shape
    seed = finalized(L.cfg.seed + 1)
    keys = {p: finalized(p ^ seed) for p in range(o * i)}
    places = sorted(sorted(keys, key=keys.__getitem__)[: L.cfg.r * (o + i)])
    S = torch.zeros(o, i, dtype=L.W.dtype)
    rows, columns = torch.tensor([divmod(p, i) for p in places]).T
    return L.W + S.index_put((rows, columns), L.t["lora_values"]), L.b


def pairs(site: Any, layer: Any) -> dict[str, Any]:
    """Also gives PEFT's layer our positions: its own come from torch's generator."""
    places = site.basis_positions
    layer.shira_indices["default"] = torch.stack((places // site.i, places % site.i)).int()
    return {"lora_values": (layer.shira_weight["default"], lambda t: t, lambda g: g)}
