"""Which differences between runs are larger than the noise of their questions and of their seeds.

`right` is (seeds, questions): row s holds which questions the run with seed s answered correctly. Both axes are
samples: another seed, or another 1,000 questions of the same kind, would give another accuracy. A number per question,
such as the loss of its reference, is treated alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Right = NDArray[np.bool_]  # (seeds, questions)
Values = Right | NDArray[np.float64]
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


def estimate(right: Values, other: Values | None = None) -> Estimate:
    """Mean of `right`, or its difference to `other` on the same questions, with Student's t interval and p.

    Seeds are not paired: luck that the arms' seeds share (the order of batches) makes the interval wider than it need
    be. tests/report/test_stats.py measures coverage and false positives. Both are right where seeds differ about
    normally, not where some fail altogether. The spread between seeds is not in it for an arm with one seed. Where no
    question and no seed varies, as at 0 or 100 %, the bounds are Wilson's (of numbers, the value itself).
    """
    from scipy.special import stdtr, stdtrit

    arms = [right] if other is None else [right, other]
    questions = right.shape[1]
    if any(a.shape[1] != questions for a in arms):
        raise ValueError(f"arms of {', '.join(str(a.shape[1]) for a in arms)} questions; expected the same ones")
    value = float(right.mean() - (other.mean() if other is not None else 0.0))
    se, df = standard_error(arms)
    if se == 0:
        return _constant(arms, value, df)
    half = float(stdtrit(df, 1 - ALPHA / 2)) * se
    return Estimate(value, value - half, value + half, se, df, float(2 * stdtr(df, -abs(value) / se)))


def _constant(arms: list[Values], value: float, df: float) -> Estimate:
    """Where nothing varies: Wilson's bounds on one set of questions, or Newcombe's of a difference (1998, method 10).

    p: of a sign test in which every question favours the same arm.
    """
    questions = arms[0].shape[1]
    p = 1.0 if value == 0 else 2.0 ** (1 - questions)
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

    Where an arm has two seeds, the seeds' part has that arm's one degree of freedom: Satterthwaite's own come from so
    few values that a small spread by luck gives a small critical value, and 7 to 10 % false positives.
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
    if any(df == 1 for _, df in parts):
        doubt += sum(part for part, _ in parts) ** 2
    else:
        doubt += sum(part**2 / df for part, df in parts)
    return math.sqrt(variance), (variance**2 / doubt if doubt > 0 else 1.0)


def accuracy_interval(right: Right) -> tuple[float, float]:
    """Of the mean accuracy; `estimate` says how. Within five questions of 0 or 100 % it holds Wilson's too."""
    mean = estimate(right)
    low, high = max(0.0, mean.low), min(1.0, mean.high)
    questions = right.shape[1]
    if min(mean.value, 1 - mean.value) * questions < 5:  # too few answers of one kind for their spread to be seen
        least, most = wilson(mean.value * questions, questions)
        low, high = min(low, least), max(high, most)
    return low, high


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[int, int, float]:
    """Exact McNemar test of two runs: questions only the first got right, only the second, and the two-sided p.

    first, second: (questions,). It knows nothing of seeds, so a small p says that these two adapters differ, not that
    their methods do.
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
