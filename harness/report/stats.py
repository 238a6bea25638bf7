"""Which differences between runs are larger than the noise of their questions and of their seeds.

`right` is (seeds, questions): row s holds which questions the run with seed s answered correctly. Both axes are
samples: another seed, or another 1,000 questions of the same kind, would give another accuracy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def wilson(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion (Wilson 1927)."""
    p, n = correct / total, total
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


Right = NDArray[np.bool_]  # (seeds, questions)
RESAMPLES = 4000
ALPHA, POWER = 0.05, 0.80


@dataclass(frozen=True)
class Estimate:
    """An accuracy, or a difference of two, as a share (0.01 is one percentage point).

    low, high: 95 % interval. se: standard error, with df degrees of freedom. p: two-sided, of the value being 0.
    """

    value: float
    low: float
    high: float
    se: float
    df: float
    p: float


def estimate(
    right: Right, other: Right | None = None, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Mean accuracy of `right`, or its difference to `other` on the same questions; seeds are not paired.

    The pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1) draws seeds and questions with replacement. By
    itself it errs twice: it sees only (n−1)/n of the variance between n seeds, and it counts the noise of single
    answers three times. So its draws are rescaled to the unbiased standard error of the two-way layout, and divided by
    √(χ²/df) as Student's t is, because few seeds say little about their own spread. tests/test_stats.py measures
    coverage and false positives of the result. The spread between seeds is not in it for an arm with one seed.
    """
    arms = [right] if other is None else [right, other]
    questions = right.shape[1]
    if any(a.shape[1] != questions for a in arms):
        raise ValueError(f"arms of {', '.join(str(a.shape[1]) for a in arms)} questions; expected the same ones")
    value = float(right.mean() - (other.mean() if other is not None else 0.0))
    se, df = standard_error(arms)
    draws = _draws(arms, resamples, seed)
    spread = float(draws.std())
    if se == 0 or spread == 0:
        return Estimate(value, value, value, 0.0, df, 1.0 if value == 0 else 1 / (resamples + 1))
    chi = np.random.default_rng(seed + 1).chisquare(df, resamples)
    t = (draws - value) * (se / spread) * np.sqrt(df / chi)
    low, high = value + np.quantile(t, [(1 - level) / 2, (1 + level) / 2])
    p = (1 + np.count_nonzero(np.abs(t) >= abs(value))) / (resamples + 1)
    return Estimate(value, float(low), float(high), se, df, float(p))


def standard_error(arms: list[Right]) -> tuple[float, float]:
    """Standard error of a mean (one arm) or of a difference (two), and Satterthwaite's degrees of freedom.

    Two-way layout without replication, y_sq = μ + seed_s + question_q + rest_sq in each arm:
    var(question means of the difference)/Q holds everything but the seeds; each arm adds its seeds' own variance/S.
    As for readers × cases in radiology (Hillis 2007, Statistics in Medicine 26).
    """
    by_question = arms[0].mean(axis=0) - (arms[1].mean(axis=0) if len(arms) == 2 else 0.0)
    questions = len(by_question)
    if questions < 2:
        return 0.0, 1.0
    variance = float(by_question.var(ddof=1)) / questions
    doubt = variance**2 / (questions - 1)  # Σ component² / its degrees of freedom
    for right in arms:
        seeds = len(right)
        if seeds == 1:
            continue
        by_seed = right.mean(axis=1)
        rest = right - by_seed[:, None] - right.mean(axis=0) + right.mean()
        noise = float((rest**2).sum()) / ((seeds - 1) * (questions - 1)) / questions
        between = float(by_seed.var(ddof=1))
        variance += max(0.0, between - noise) / seeds
        doubt += (between / seeds) ** 2 / (seeds - 1)
    return math.sqrt(variance), (variance**2 / doubt if doubt > 0 else 1.0)


def _draws(arms: list[Right], resamples: int, seed: int) -> NDArray[np.float64]:
    """The bootstrap's means or differences, (resamples,). Sums of integers, hence the same on every processor."""
    questions = arms[0].shape[1]
    of_questions = _counts(questions, resamples, seed)
    sums = []
    for n, right in enumerate(arms):
        of_seeds = _counts(len(right), resamples, seed + 2 + n)
        sums.append(((of_seeds @ right) * of_questions).sum(axis=1) / (len(right) * questions))
    return sums[0] - sums[1] if len(sums) == 2 else sums[0]


@lru_cache(maxsize=8)
def _counts(n: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each of n things is drawn, (resamples, n); every row sums to n."""
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n)) + np.arange(resamples)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(float)


def crossed_bootstrap(
    right: Right, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Interval of the mean accuracy; `estimate` says how."""
    found = estimate(right, level=level, resamples=resamples, seed=seed)
    return max(0.0, found.low), min(1.0, found.high)


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[int, int, float]:
    """Questions (Q,) that only the first run got right, only the second, and the exact two-sided p. Single runs only:

    it knows nothing of seeds, so a small p says that these two adapters differ, not that their methods do.
    """
    from statsmodels.stats.contingency_tables import mcnemar as exact_test

    one, two = int((first & ~second).sum()), int((second & ~first).sum())
    return one, two, float(exact_test([[0, one], [two, 0]], exact=True).pvalue)


def holm(p: list[float]) -> list[float]:
    """Holm's step-down adjustment: the chance of one false positive in the whole list stays below the level."""
    from statsmodels.stats.multitest import multipletests

    return [float(v) for v in multipletests(p, method="holm")[1]] if p else []


def detectable(se: float, df: float, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest true difference that a test of this standard error finds with this power."""
    from scipy.stats import t

    return float((t.ppf(1 - alpha / 2, df) + t.ppf(power, df)) * se)
