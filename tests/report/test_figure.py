"""README's figure: the Pareto front, every variant by its name, points where their figures are, labels apart."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.report.figure import Scale, accuracy_figure, pareto, place_labels
from tests import factory
from tests.report.conftest import chosen

BOX = (50.0, 30.0, 840.0, 490.0)


@given(st.lists(st.tuples(st.integers(1, 9).map(float), st.integers(0, 9).map(float)), max_size=12))
def test_pareto_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    front = pareto(points)
    beaten = [p for p in points if any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)]
    assert set(front) == set(points) - set(beaten)
    assert front == sorted(front)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(60, 830), st.floats(40, 480), st.floats(10, 120)), max_size=30))
def test_labels_cover_neither_each_other_nor_a_point(marks: list[tuple[float, float, float]]) -> None:
    """And stay in the plot. Nearly all have a place."""
    points, widths = [(x, y) for x, y, _ in marks], [w for *_, w in marks]
    placed = [(place, w) for place, w in zip(place_labels(points, widths, BOX), widths, strict=True) if place]
    rects = [(x, y - 7, x + w, y + 7) for (x, y), w in placed]
    rects_and_points = rects + [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    for n, a in enumerate(rects):
        assert BOX[0] - 0.1 <= a[0]
        assert a[2] <= BOX[2] + 0.1
        for b in rects_and_points[n + 1 :]:
            wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            assert min(wide, high) < 0.2  # places are rounded to a tenth of a pixel
    assert len(placed) >= 0.8 * len(marks)


def test_every_row_has_its_name_and_its_place(frame: pd.DataFrame) -> None:
    """Points lie where parameters and accuracy put them, also where several have as many parameters."""
    svg = accuracy_figure("t", frame)
    assert [v for v in factory.SKILLS if not re.search(rf">{v}( \(r 8\))?<", svg)] == []
    places = [tuple(map(float, p)) for p in re.findall(r'circle class="point" cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert len(places) == len(factory.SKILLS)
    rows = {v: chosen(frame, v) for v in factory.SKILLS}
    at = dict(zip(sorted(rows, key=lambda v: -rows[v]["accuracy"]), sorted(places, key=lambda p: p[1]), strict=True))
    assert at["lora"][0] == at["pissa"][0] < at["dora"][0]
    one, two, three = (rows[v]["accuracy"] for v in ("ia3", "lora", "antipasto_dplr"))
    share = (at["lora"][1] - at["ia3"][1]) / (at["antipasto_dplr"][1] - at["ia3"][1])
    assert share == pytest.approx((two - one) / (three - one), abs=0.01)
    for v in ("none", "full"):  # references: a line or an arrow with the figure, no point
        assert f"{v} {100 * chosen(frame, v)['accuracy']:.1f}<" in svg


@pytest.mark.parametrize("values", [[50.0], [0.0, 100.0], [7.9, 91.0], [60.1, 60.2]])
def test_ticks_hold_all_values(values: list[float]) -> None:
    scale = Scale.linear(values, 0.0, 1.0)
    assert scale.ticks[0] <= min(values) <= max(values) <= scale.ticks[-1]
    assert len(scale.ticks) <= 12
    scale = Scale.logarithmic([v + 1 for v in values], 0.0, 1.0)
    assert scale.ticks
    assert all(0 < scale(v + 1) < 1 for v in values)
