"""AntiPaSTO in ASVD's basis (arXiv 2312.05821)."""

from __future__ import annotations

from tests.dense import Dense, Layer, gained, oriented

COUNT = 14_336


def dense(L: Layer) -> Dense:
    return gained(L, *oriented(L, diagonal=True))
