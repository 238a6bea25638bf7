"""AntiPaSTO in CorDA's basis (arXiv 2406.05223)."""

from __future__ import annotations

from tests.dense import Dense, Layer, gained, oriented

COUNT = 14_336
SETTINGS = [{"coeff": -0.6, "cov_eps": 0.1}]


def dense(L: Layer) -> Dense:
    return gained(L, *oriented(L, diagonal=False))
