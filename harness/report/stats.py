"""Which differences between runs are larger than the noise of their questions and of their seeds.

`right` is (seeds, questions): row s holds which questions the run with seed s answered correctly. Both axes are
samples: another seed, or another 1,000 questions of the same kind, would give another accuracy. A number per question,
such as the loss of its reference, is treated alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Right = NDArray[np.bool_]  # (seeds, questions)
Values = Right | NDArray[np.float64]
RESAMPLES = 4000
ALPHA, POWER = 0.05, 0.80
Z = 1.959964  # 97.5 % of a normal distribution lie below


def wilson(correct: int | float, total: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion (Wilson 1927)."""
    p, n, z = correct / total, total, Z
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of two, in the unit of the values; of accuracies as a share (0.01 is one point).

    low, high: 95 % interval. se: standard error, with df degrees of freedom. p: two-sided, of the value being 0.
    """

    value: float
    low: float
    high: float
    se: float
    df: float
    p: float


def estimate(right: Values, other: Values | None = None, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Mean of `right`, or its difference to `other` on the same questions; seeds are not paired.

    The pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1) draws seeds and questions with replacement. By
    itself it errs twice: it sees only (n−1)/n of the variance between n seeds, and it counts the noise of single
    answers three times. So its draws are rescaled to the unbiased standard error of the two-way layout, and divided by
    √(χ²/df) as Student's t is, because few seeds say little about their own spread. tests/report/test_stats.py measures
    coverage and false positives of the result. The spread between seeds is not in it for an arm with one seed. Where
    no question and no seed varies, as at 0 or 100 %, the bounds are Wilson's (of numbers, the value itself).
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
        return _constant(arms, value, df, 1 / (resamples + 1))
    chi = np.random.default_rng(seed + 1).chisquare(df, resamples)
    t = (draws - value) * (se / spread) * np.sqrt(df / chi)
    low, high = value + np.quantile(t, [ALPHA / 2, 1 - ALPHA / 2])
    p = (1 + np.count_nonzero(np.abs(t) >= abs(value))) / (resamples + 1)
    return Estimate(value, float(low), float(high), se, df, float(p))


def _constant(arms: list[Values], value: float, df: float, least_p: float) -> Estimate:
    """Where nothing varies: Wilson's bounds on one set of questions, or Newcombe's of a difference (1998, method 10).

    p: of a sign test in which every question favours the same arm.
    """
    questions = arms[0].shape[1]
    p = 1.0 if value == 0 else max(least_p, 2.0 ** (1 - questions))
    if arms[0].dtype != np.bool_:
        return Estimate(value, value, value, 0.0, df, p)
    means = [float(a.mean()) for a in arms]
    bounds = [wilson(p * questions, questions) for p in means]
    low, high = bounds[0]
    if len(arms) == 2:
        (low_1, high_1), (low_2, high_2) = bounds
        low = value - math.hypot(means[0] - low_1, high_2 - means[1])
        high = value + math.hypot(high_1 - means[0], means[1] - low_2)
    return Estimate(value, low, high, (high - low) / (2 * Z), df, p)


def standard_error(arms: list[Values]) -> tuple[float, float]:
    """Standard error of a mean (one arm) or of a difference (two), and Satterthwaite's degrees of freedom.

    Two-way layout without replication, y_sq = μ + seed_s + question_q + rest_sq in each arm:
    var(question means of the difference)/Q holds everything but the seeds; each arm adds its seeds' own variance/S.
    As for readers × cases in radiology (Hillis 2007, Statistics in Medicine 26).

    With unequal numbers of seeds, or only two, the seeds' part has the smaller arm's degrees of freedom:
    Satterthwaite's own come from so few values that a small spread by luck gives a small critical value, and 7 to 10 %
    false positives.
    """
    by_question = arms[0].mean(axis=0) - (arms[1].mean(axis=0) if len(arms) == 2 else 0.0)
    questions = len(by_question)
    if questions < 2:
        return 0.0, 1.0
    variance = float(by_question.var(ddof=1)) / questions
    doubt = variance**2 / (questions - 1)  # Σ component² / its degrees of freedom
    parts = []  # (between / seeds, degrees of freedom) of each arm
    for right in arms:
        seeds = len(right)
        if seeds == 1:
            continue
        by_seed = right.mean(axis=1)
        rest = right - by_seed[:, None] - right.mean(axis=0) + right.mean()
        noise = float((rest**2).sum()) / ((seeds - 1) * (questions - 1)) / questions
        between = float(by_seed.var(ddof=1))
        variance += max(0.0, between - noise) / seeds
        parts.append((between / seeds, seeds - 1))
    fewest = min((df for _, df in parts), default=0)
    if fewest > 1 and all(df == fewest for _, df in parts):
        doubt += sum(part**2 for part, _ in parts) / fewest
    elif parts:
        doubt += sum(part for part, _ in parts) ** 2 / fewest
    return math.sqrt(variance), (variance**2 / doubt if doubt > 0 else 1.0)


def _draws(arms: list[Values], resamples: int, seed: int) -> NDArray[np.float64]:
    """The bootstrap's means or differences, (resamples,).

    Sums of integers or of fp16 numbers, which are exact in fp64, hence the same on every processor.
    """
    questions = arms[0].shape[1]
    of_questions = _counts(questions, resamples, seed)
    sums = []
    for n, right in enumerate(arms):
        of_seeds = _counts(len(right), resamples, seed + 2 + n)
        sums.append(((of_seeds @ right) * of_questions).sum(axis=1) / (len(right) * questions))
    total: NDArray[np.float64] = sums[0] - sums[1] if len(sums) == 2 else sums[0]
    return total


@lru_cache(maxsize=8)
def _counts(n: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each of n things is drawn, (resamples, n); every row sums to n."""
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n)) + np.arange(resamples)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(float)


def crossed_bootstrap(right: Right, *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """Interval of the mean accuracy; `estimate` says how. Within five questions of 0 or 100 % it holds Wilson's too."""
    mean = estimate(right, resamples=resamples, seed=seed)
    low, high = max(0.0, mean.low), min(1.0, mean.high)
    questions = right.shape[1]
    if min(mean.value, 1 - mean.value) * questions < 5:  # too few answers of one kind for their spread to be seen
        least, most = wilson(mean.value * questions, questions)
        low, high = min(low, least), max(high, most)
    return low, high


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


def detectable(se: float, df: float, alpha: float = ALPHA) -> float:
    """The smallest true difference that a test of this standard error finds with 80 % power at level `alpha`."""
    from scipy.stats import t

    return float((t.ppf(1 - alpha / 2, df) + t.ppf(POWER, df)) * se)
