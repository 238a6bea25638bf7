"""A figure for docs/findings.md: accuracy over a logarithmic axis, as SVG text, in the style of README's figure."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.report.figure import BOTTOM, LEFT, RIGHT, TOP, Scale, axes, figure, names

Place = tuple[float, float]
SECOND = "<style>.second .line { stroke: #d55e00 } .second .point, .second .band { fill: #d55e00 }</style>"


@dataclass(frozen=True)
class Series:
    """points: (x above 0, y in percent or points), joined by a line in this order. The name stands at the highest.

    band: (low, high) at each point, drawn as an area. A line without a name is thin. second: in the second colour.
    """

    name: str
    points: list[Place]
    band: list[tuple[float, float]] = field(default_factory=list)
    second: bool = False


def chart(title: str, axis: str, series: list[Series]) -> str:
    """The same bytes from the same numbers."""
    x = Scale.logarithmic([p[0] for s in series for p in s.points], LEFT, RIGHT)
    y = Scale.linear([v for s in series for v in (*(p[1] for p in s.points), *sum(s.band, ()))], BOTTOM, TOP)
    parts = [SECOND, *axes(x, y, axis)]
    for s in series:
        parts.append(f'<g class="{"second" if s.second else "first"}">')
        across = [x(a) for a, _ in s.points]
        if s.band:
            there, back = ([f"{a},{y(ends[n])}" for a, ends in zip(across, s.band, strict=True)] for n in (0, 1))
            parts.append(f'<polygon class="band" points="{" ".join(there + back[::-1])}"/>')
        line = [(a, y(b)) for a, (_, b) in zip(across, s.points, strict=True)]
        path = " ".join(f"{a},{b}" for a, b in line)
        parts.append(f'<polyline class="{"line" if s.name else "interval"}" fill="none" points="{path}"/>')
        parts += [f'<circle class="point" cx="{a}" cy="{b}" r="3.5"/>' for a, b in line if s.name] + ["</g>"]
    named = [s for s in series if s.name]
    highest = [max(s.points, key=lambda p: p[1]) for s in named]
    return figure(title, parts + names([s.name for s in named], [(x(a), y(b)) for a, b in highest]))
