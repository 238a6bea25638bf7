"""AntiPaSTO (arXiv 2601.07473)."""

from __future__ import annotations

from tests.dense import Dense, Layer, gained, plain

COUNT = 14_336
SETTINGS = [{"coeff": 0.5}, {"calibrated": True}]


def dense(L: Layer) -> Dense:
    return gained(L, *plain(L))
