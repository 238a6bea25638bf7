"""Whether two measures put things into the same order: rank correlation, its interval, and pairs that agree."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000
FEWEST = 5  # things; the interval of fewer says nothing


def spearman(one: list[float], two: list[float]) -> float:
    """Spearman's ρ, ties at their mean rank; NaN where a list is constant or has fewer than two numbers."""
    return float(_rho(np.array([one]), np.array([two]))[0]) if len(one) > 1 else math.nan


def interval(one: list[float], two: list[float], *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap of ρ over the things that are ordered, without draws in which a list is constant."""
    drawn = np.random.default_rng(seed).integers(len(one), size=(RESAMPLES, len(one)))
    rho = _rho(np.array(one)[drawn], np.array(two)[drawn])
    low, high = np.nanquantile(rho, [0.025, 0.975])
    return float(low), float(high)


def agreeing(one: list[float], two: list[float], *, least: float = 0.0) -> tuple[int, int]:
    """Pairs that both lists order alike, of those that differ by more than `least` in `two`."""
    pairs = [(i, j) for i, j in combinations(range(len(one)), 2) if abs(two[i] - two[j]) > least]
    return sum((one[i] - one[j]) * (two[i] - two[j]) > 0 for i, j in pairs), len(pairs)


def in_words(one: list[float], two: list[float]) -> str:
    """`0.76 [0.31, 0.95] (n = 12)`"""
    if len(one) < FEWEST:
        return f"not computed for n = {len(one)} (fewer than {FEWEST})"
    low, high = interval(one, two)
    return f"{spearman(one, two):.2f} [{low:.2f}, {high:.2f}] (n = {len(one)})"


def better_half(one: list[float], two: list[float]) -> str:
    """`in_words` of the half that is best by `one`."""
    best = sorted(range(len(one)), key=lambda n: -one[n])[: len(one) // 2]
    return in_words([one[n] for n in best], [two[n] for n in best])


def _rho(one: NDArray[np.float64], two: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's correlation of the ranks, row by row; NaN where a row is constant."""
    from scipy.stats import rankdata

    a, b = (rankdata(rows, axis=1) - (rows.shape[1] + 1) / 2 for rows in (one, two))
    with np.errstate(invalid="ignore", divide="ignore"):
        rho: NDArray[np.float64] = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return rho
