"""GraLoRA (arXiv 2505.20355), section 3: block by block."""

from __future__ import annotations

from typing import Any

import torch

from tests.dense import Dense, Layer, scale

COUNT = 4_587_520
SETTINGS: list[dict[str, Any]] = [{"k": 4, "alpha": 6}, {"k": 1, "scaling": "rslora", "alpha": 6}]
PEFT = {
    "gralora": ("GraloraConfig", {"r": 4, "alpha": 6, "gralora_dropout": 0.1}),
    "gralora 4": ("GraloraConfig", {"r": 8, "gralora_k": 4}),
}
TWINS = {
    "gralora": ({"alpha": 12}, "GraloraConfig", {"r": 8, "alpha": 12}),
    "gralora 4": ({"k": 4, "alpha": 8}, "GraloraConfig", {"r": 8, "alpha": 8, "gralora_k": 4}),
}


def dense(L: Layer) -> Dense:
    k, n = L.cfg.k, L.cfg.r // L.cfg.k
    A, B = L.t["lora_A"], L.t["lora_B"]
    blocks = [
        [B[b, a * n : (a + 1) * n].T @ A[a, :, b * n : (b + 1) * n].T for a in range(k)] for b in range(k)
    ]  # (o/k, i/k) each
    return L.W + scale(L.cfg) * torch.cat([torch.cat(row, 1) for row in blocks]), L.b


def pairs(site: Any, layer: Any) -> dict[str, Any]:
    return {f"lora_{k}": (getattr(layer, f"gralora_{k}")["default"], lambda t: t, lambda g: g) for k in "AB"}
