"""Figures: the Pareto front, and variants that can be told apart without colour."""

from __future__ import annotations

import re

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

import adapters as ad
from harness.report.plots import _style, figures, pareto
from tests import factory


@given(st.lists(st.tuples(st.integers(1, 9).map(float), st.integers(0, 9).map(float)), max_size=12))
def test_pareto_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    front = pareto(points)
    beaten = [p for p in points if any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)]
    assert set(front) == set(points) - set(beaten)
    assert front == sorted(front)


def test_figures_can_be_told_apart_without_colour(frame: pd.DataFrame) -> None:
    """A marker for each of as many variants as there are, and every variant named in every figure."""
    style = _style(sorted(ad.VARIANTS))
    assert len({marker for _, marker in style.values()}) == len(style)
    drawn = figures("t", frame, {c: [(1, 1.0), (2, 0.5)] for c in frame["cell"]}, None)
    assert drawn.keys() == {"accuracy", "learning_rate", "loss", "cost"}
    for name, svg in drawn.items():
        missing = [v for v in factory.SKILLS if not re.search(rf">{v}[ :<]", svg)]
        assert missing == [], name
