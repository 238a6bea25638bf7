"""A figure for docs/findings.md: accuracy over a logarithmic axis, as SVG text, in the style of README's figure."""

from __future__ import annotations

from dataclasses import dataclass

from harness.report.figure import BOTTOM, LEFT, RIGHT, TOP, Scale, axes, figure, names

Place = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """points: (x above 0, accuracy in percent), joined by a line in this order. The name stands at the highest."""

    name: str
    points: list[Place]


def chart(title: str, axis: str, series: list[Series]) -> str:
    """The same bytes from the same numbers."""
    x = Scale.logarithmic([p[0] for s in series for p in s.points], LEFT, RIGHT)
    y = Scale.linear([p[1] for s in series for p in s.points], BOTTOM, TOP)
    lines = [[(x(a), y(b)) for a, b in s.points] for s in series]
    parts = axes(x, y, axis)
    for line in lines:
        path = " ".join(f"{a},{b}" for a, b in line)
        parts.append(f'<polyline class="interval" fill="none" points="{path}"/>')
        parts += [f'<circle class="point" cx="{a}" cy="{b}" r="3.5"/>' for a, b in line]
    return figure(title, parts + names([s.name for s in series], [min(line, key=lambda p: p[1]) for line in lines]))
