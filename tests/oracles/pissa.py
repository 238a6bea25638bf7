"""PiSSA (arXiv 2404.02948): a residual weight plus trained A and B that start at the principal part."""

from __future__ import annotations

from tests.dense import Dense, Layer, scale, svd

COUNT = 4_587_520
SETTINGS = [{"alpha": 3.0}]


def dense(L: Layer) -> Dense:
    s = scale(L.cfg)
    U, S, Vh = svd(L.W, L.cfg.r, L.frozen["basis_B"])
    A0, B0 = (S / s).sqrt()[:, None] * Vh, U * (S / s).sqrt()
    residual = L.W - (U * S) @ Vh
    return residual + s * (B0 + L.t["lora_dB"]) @ (A0 + L.t["lora_dA"]), L.b
