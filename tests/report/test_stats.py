"""Intervals and p values against other implementations, and against simulated runs whose truth is known."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.power import tt_solve_power
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from harness.report.stats import accuracy_interval, detectable, estimate, holm, mcnemar, standard_error, wilson

# Simulated studies per test; the drill takes ten times as many.
simulation = pytest.mark.parametrize("trials", [200, pytest.param(2000, marks=pytest.mark.drill)])


def simulated(
    rng: np.random.Generator, seeds: int, questions: int, *, spread: float, hard: Any = None, own: float = 0.7
) -> np.ndarray[Any, Any]:
    """Runs of one variant: questions are hard (shared with the other variant), and hard for it alone (own);
    seeds differ in skill (spread). All in logits."""
    hard = 1.3 * rng.normal(size=(1, questions)) if hard is None else hard
    logits = hard + own * rng.normal(size=(1, questions)) + spread * rng.normal(size=(seeds, 1))
    return rng.random((seeds, questions)) < 1 / (1 + np.exp(-logits))


# -- against other implementations -------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(1, 50), (2, 40), (5, 33)])
def test_standard_error_of_a_mean_is_that_of_the_two_way_layout(shape: tuple[int, int]) -> None:
    """By sums of squares over explicit loops (Searle's expected mean squares), where no component is below zero."""
    rng = np.random.default_rng(3)
    y = simulated(rng, *shape, spread=1.0).astype(float)
    s, q = shape
    cells = list(product(range(s), range(q)))
    grand = sum(y[c] for c in cells) / (s * q)
    by_seed = [sum(y[i, j] for j in range(q)) / q for i in range(s)]
    by_question = [sum(y[i, j] for i in range(s)) / s for j in range(q)]
    questions = s * sum((m - grand) ** 2 for m in by_question) / (q - 1)
    expected = questions / (s * q)
    if s > 1:
        seeds = q * sum((m - grand) ** 2 for m in by_seed) / (s - 1)
        rest = sum((y[i, j] - by_seed[i] - by_question[j] + grand) ** 2 for i, j in cells) / ((s - 1) * (q - 1))
        assert seeds > rest
        expected = (questions + seeds - rest) / (s * q)
    assert standard_error([y > 0.5])[0] == pytest.approx(math.sqrt(expected), rel=1e-9)


def test_one_run_against_one_is_the_paired_t_test() -> None:
    """With one seed on either side there is no other noise than the questions'."""
    rng = np.random.default_rng(4)
    hard = rng.normal(size=(1, 400))
    one, two = (simulated(rng, 1, 400, spread=0.0, hard=hard + k) for k in (0.3, 0.0))
    expected = scipy_stats.ttest_rel(one[0].astype(float), two[0].astype(float))
    found = estimate(one, two)
    assert found.value / found.se == pytest.approx(expected.statistic, rel=1e-9)
    assert found.df == pytest.approx(399)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_numbers_per_question_are_compared_alike() -> None:
    """Losses that share their questions' difficulty: the paired t test in any unit; and where nothing varies."""
    rng = np.random.default_rng(8)
    hard = rng.gamma(4.0, 10.0, size=(1, 400))
    one, two = (hard + rng.normal(shift, 2.0, size=(1, 400)) for shift in (0.4, 0.0))
    expected = scipy_stats.ttest_rel(one[0], two[0])
    found, scaled = estimate(one, two), estimate(one / 8, two / 8)
    interval = expected.confidence_interval()
    assert found.value == pytest.approx(float((one - two).mean()))
    assert found.value / found.se == pytest.approx(expected.statistic, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert (8 * scaled.low, 8 * scaled.high) == pytest.approx((found.low, found.high))
    for shift in (0.0, -3.0):
        same = estimate(np.round(hard) + shift, np.round(hard))
        assert (same.value, same.low, same.high, same.p < 0.001) == (shift, shift, shift, shift != 0)


@pytest.mark.parametrize("seeds", [(3, 4), (2, 5), (2, 2)])
def test_degrees_of_freedom_are_satterthwaites_but_for_two_seeds(seeds: tuple[int, int]) -> None:
    """Where seeds are nearly all of the noise: Welch's t test of the seeds' means, but for two seeds."""
    rng = np.random.default_rng(5)
    one, two = (np.round(rng.normal(size=(n, 1)), 3) + 1e-4 * rng.normal(size=(n, 500)) for n in seeds)
    welch = scipy_stats.ttest_ind(one.mean(axis=1), two.mean(axis=1), equal_var=False)
    found = estimate(one, two)
    assert found.value / found.se == pytest.approx(welch.statistic, rel=1e-3)
    if 2 in seeds:
        assert found.df == pytest.approx(1, rel=1e-3)
    else:
        assert found.df == pytest.approx(welch.df, rel=1e-3)
        assert found.p == pytest.approx(welch.pvalue, rel=1e-2)


@given(st.lists(st.booleans(), min_size=1, max_size=40).flatmap(lambda a: st.tuples(st.just(a), st.permutations(a))))
def test_mcnemar_is_a_sign_test_of_the_discordant_questions(pair: tuple[list[bool], list[bool]]) -> None:
    one, two, p = mcnemar(np.array(pair[0]), np.array(pair[1]))
    assert (one, two) == (
        sum(a > b for a, b in zip(*pair, strict=True)),
        sum(a < b for a, b in zip(*pair, strict=True)),
    )
    expected = scipy_stats.binomtest(one, one + two, 0.5).pvalue if one + two else 1.0
    assert p == pytest.approx(expected)


@settings(max_examples=25, deadline=None)  # statsmodels collects garbage in every call
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_as_in_his_paper(p: list[float]) -> None:
    """Step down: the k-th smallest times (m − k + 1), never below the one before, at most 1."""
    expected, worst = [0.0] * len(p), 0.0
    for k, n in enumerate(sorted(range(len(p)), key=lambda n: p[n])):
        worst = max(worst, min(1.0, (len(p) - k) * p[n]))
        expected[n] = worst
    assert holm(p) == pytest.approx(expected)
    assert holm([]) == []


@pytest.mark.parametrize("df", [4.0, 30.0, 1318.0])
def test_detectable_difference_has_the_power_it_says(df: float) -> None:
    """Against statsmodels' solution by the non-central t; and 3.5 points for one pair of runs on 1,319 questions."""
    exact = tt_solve_power(nobs=df + 1, alpha=0.05, power=0.8) * math.sqrt(df + 1)
    assert detectable(1.0, df) == pytest.approx(exact, rel=0.05)
    discordant = 0.2  # share of questions on which two runs differ
    assert detectable(math.sqrt(discordant / 1319), 1318.0) == pytest.approx(0.0345, abs=0.0005)


# -- against a known truth ---------------------------------------------------------------------------------------------
@simulation
@pytest.mark.parametrize(("seeds", "spread"), list(product((2, 3, 5, 10), (0.0, 0.3))))
def test_intervals_hold_the_truth(seeds: int, spread: float, trials: int) -> None:
    """95 % intervals of a mean, seeds' spread included; the truth by quadrature over 400,000 draws.

    One that pools the runs' questions (Wilson's) holds it less often. The drill measures to 0.5 points.
    """
    rng = np.random.default_rng(7)
    everyone = (1.3**2 + 0.7**2 + spread**2) ** 0.5 * rng.normal(size=400_000)
    truth = float((1 / (1 + np.exp(-everyone))).mean())
    inside = pooled = 0
    for _ in range(trials):
        right = simulated(rng, seeds, 200, spread=spread)
        low, high = accuracy_interval(right)
        assert low <= right.mean() <= high
        inside += low <= truth <= high
        low, high = wilson(int(right.sum()), right.size)
        pooled += low <= truth <= high
    assert pooled < inside
    least = 0.90 if seeds == 2 else 0.92
    assert inside / trials >= least - 2 * math.sqrt(least * (1 - least) / trials)


@simulation
@pytest.mark.parametrize(
    ("seeds", "spread"),
    [((s, s), (x, x)) for s, x in product((2, 3, 5), (0.0, 0.3))]
    + [((2, 5), (0.3, 0.1)), ((2, 10), (0.3, 0.3)), ((3, 5), (0.3, 0.1)), ((2, 2), (0.3, 0.1))],
    ids=str,
)
def test_equal_variants_are_rarely_called_different(
    seeds: tuple[int, int], spread: tuple[float, float], trials: int
) -> None:
    """False positives at p < 0.05 of two variants of the same mean skill, each with its own questions and seeds.

    With Satterthwaite's degrees of freedom, 2 seeds against 5 or 10 gave 7 to 10 %.
    """
    rng = np.random.default_rng(8)
    wrong = 0
    for _ in range(trials):
        hard = 1.3 * rng.normal(size=(1, 200))
        arms = [simulated(rng, s, 200, spread=x, hard=hard, own=0.2) for s, x in zip(seeds, spread, strict=True)]
        wrong += estimate(*arms).p < 0.05
    most = 0.06
    assert wrong / trials <= most + 2 * math.sqrt(most * (1 - most) / trials)


@pytest.mark.slow
@simulation
def test_a_family_of_equal_variants_is_rarely_called_different(trials: int) -> None:
    """At least one of eight comparisons with a common baseline: below 5 % after Holm's correction, far more without."""
    rng, trials = np.random.default_rng(9), trials // 2
    any_raw = any_corrected = 0
    for _ in range(trials):
        hard = 1.3 * rng.normal(size=(1, 150))
        arms = [simulated(rng, 3, 150, spread=0.2, hard=hard, own=0.3) for _ in range(9)]
        p = [estimate(a, arms[0]).p for a in arms[1:]]
        any_raw += min(p) < 0.05
        any_corrected += min(p) < 0.05 and min(holm(p)) < 0.05
    assert any_corrected / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)
    assert any_raw > 2 * any_corrected


@simulation
def test_one_seed_says_nothing_of_the_others(trials: int) -> None:
    """Why a comparison of single runs is never bold: where seeds differ, its p is wrong many times too often."""
    rng = np.random.default_rng(10)
    wrong = 0
    for _ in range(trials):
        hard = 1.3 * rng.normal(size=(1, 400))
        one, two = (simulated(rng, 1, 400, spread=0.3, hard=hard, own=0.0) for _ in range(2))
        wrong += mcnemar(one[0], two[0])[2] < 0.05
    assert wrong / trials > 0.15


@simulation
def test_power_is_that_of_the_t_test(trials: int) -> None:
    """A true difference is found as often as the non-central t predicts."""
    rng = np.random.default_rng(11)
    found = expected = 0.0
    for _ in range(trials):
        hard = 1.3 * rng.normal(size=(1, 300))
        better = simulated(rng, 5, 300, spread=0.1, hard=hard + 0.55)
        e = estimate(better, simulated(rng, 5, 300, spread=0.1, hard=hard))
        found += e.p < 0.05
        nc = 0.0908 / e.se  # 0.0908: the difference that 0.55 logits make here, by quadrature
        critical = scipy_stats.t.ppf(0.975, e.df)
        expected += float(scipy_stats.nct.sf(critical, e.df, nc))
    assert found / trials == pytest.approx(expected / trials, abs=0.1)


@pytest.mark.parametrize("seeds", [1, 3])
def test_where_nothing_varies(seeds: int) -> None:
    """All right or all wrong is no proof of 100 or 0 %: seeds share their questions, whose number bounds it."""
    right = np.ones((seeds, 20), dtype=bool)
    for arm in (right, ~right):
        expected = proportion_confint(arm[0].sum(), 20, method="wilson")
        assert accuracy_interval(arm) == pytest.approx(expected, abs=1e-6)
        assert (estimate(arm).low, estimate(arm).high) == pytest.approx(expected, abs=1e-6)
    same, opposite = estimate(right, right), estimate(right, ~right)
    assert (same.value, same.p) == (0.0, 1.0)
    newcombe = confint_proportions_2indep(20, 20, 20, 20, method="newcomb")
    assert (same.low, same.high) == pytest.approx(newcombe, abs=1e-6)
    assert (opposite.value, opposite.high) == (1.0, 1.0)
    newcombe = confint_proportions_2indep(20, 20, 0, 20, method="newcomb")
    assert opposite.low == pytest.approx(newcombe[0], abs=1e-6)
    assert opposite.p < 0.001
    assert estimate(right[:, :5], ~right[:, :5]).p == pytest.approx(2 * 0.5**5)
    assert min(e.se for e in (same, opposite)) > 0  # of which the minimum detectable effect is computed
    assert estimate(right[:, :1]).high == 1.0
    with pytest.raises(ValueError, match="arms of 20, 19 questions; expected the same ones"):
        estimate(right, right[:, 1:])


def test_intervals_near_the_ends_hold_the_truth() -> None:
    """Three seeds of a variant that answers 99.8 %: often all answers are right, and the truth must still be inside."""
    rng = np.random.default_rng(12)
    inside = 0
    for _ in range(150):
        answers = np.broadcast_to(rng.random((1, 200)) < 0.998, (3, 200))
        low, high = accuracy_interval(answers)
        inside += low <= 0.998 <= high
    assert inside / 150 >= 0.92


def test_a_difference_turned_round_changes_its_sign_alone() -> None:
    right = simulated(np.random.default_rng(1), 3, 60, spread=0.2)
    other = simulated(np.random.default_rng(2), 2, 60, spread=0.2)
    there, back = estimate(right, other), estimate(other, right)
    assert (there.value, there.se, there.df, there.p) == pytest.approx((-back.value, back.se, back.df, back.p))
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


# -- intervals --------------------------------------------------------------------------------------------------------
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_statsmodels(pair: tuple[int, int]) -> None:
    assert wilson(*pair) == pytest.approx(proportion_confint(*pair, alpha=0.05, method="wilson"), abs=1e-6)


def test_intervals_of_right_and_wrong_mirror_each_other() -> None:
    right = np.random.default_rng(1).random((3, 60)) < 0.4
    low, high = accuracy_interval(right)
    flipped = accuracy_interval(~right)
    assert (1 - flipped[1], 1 - flipped[0]) == pytest.approx((low, high))
