"""Intervals for accuracies that differ by question and by seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000


def crossed_bootstrap(
    right: NDArray[np.bool_], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean accuracy. right (seeds, questions): both axes are drawn with replacement.

    The pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1): resampling crossed factors
    keeps the interval from being too narrow, as it is when runs that share their questions are pooled.
    """
    rng = np.random.default_rng(seed)
    rows, columns = right.shape
    means = np.empty(resamples)
    for k in range(resamples):
        by_seed = np.bincount(rng.integers(rows, size=rows), minlength=rows)
        by_question = np.bincount(rng.integers(columns, size=columns), minlength=columns)
        means[k] = by_seed @ right @ by_question / (rows * columns)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
