"""Rank correlation against scipy and by hand; its interval; pairs that agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from tools._rank_order import agreeing, in_words, interval, spearman


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=15))
def test_spearman_is_scipys_with_ties_too(pairs: list[tuple[int, int]]) -> None:
    one, two = ([float(p[n]) for p in pairs] for n in (0, 1))
    if len(set(one)) > 1 and len(set(two)) > 1:
        assert spearman(one, two) == pytest.approx(spearmanr(one, two).statistic, abs=1e-12)
    else:
        assert math.isnan(spearman(one, two))


def test_spearman_by_hand() -> None:
    """ρ = 1 − 6Σd²/(n(n² − 1)) without ties: d = (0, 1, −1, 0, 0) gives 1 − 12/120."""
    assert spearman([1, 2, 3, 4, 5], [10, 30, 20, 40, 50]) == pytest.approx(0.9)
    assert spearman([1, 2, 3], [9, 8, -7]) == pytest.approx(-1)


def test_interval_covers_the_truth_and_narrows_with_more_things() -> None:
    """Of bivariate normals with Pearson's r, ρ is 6/π · arcsin(r/2)."""
    r = 0.8
    truth = 6 / math.pi * math.asin(r / 2)
    widths: dict[int, list[float]] = {}
    for n in (12, 40):
        inside = []
        for seed in range(10):
            x, noise = np.random.default_rng(seed).normal(size=(2, n))
            low, high = interval(x.tolist(), (r * x + math.sqrt(1 - r * r) * noise).tolist(), seed=seed)
            inside.append(low <= truth <= high)
            widths.setdefault(n, []).append(high - low)
        assert sum(inside) >= 8
    assert np.mean(widths[40]) < 0.65 * np.mean(widths[12])
    assert interval([1, 2, 3, 4, 5], [2, 4, 6, 8, 10]) == (pytest.approx(1), pytest.approx(1))


def test_pairs_that_agree() -> None:
    assert agreeing([1, 2, 3], [1, 3, 2]) == (2, 3)
    assert agreeing([1, 2, 3], [1, 3, 2], least=1) == (1, 1)  # of 3 and 1 alone
    assert agreeing([1, 1, 3], [1, 2, 2]) == (1, 2)  # a tie in the first list agrees with nothing
    assert in_words([1.0] * 4, [1.0] * 4) == "not computed for n = 4 (fewer than 5)"
