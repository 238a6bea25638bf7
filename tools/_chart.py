"""A figure for docs/findings.md: accuracy over a logarithmic axis, as SVG text, in the style of README's figure."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from harness.report.figure import BOTTOM, EM, HEIGHT, LEFT, RIGHT, ROW, STYLE, TOP, WIDTH, Scale, place_labels

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
    parts = [f'<text x="{LEFT}" y="20">{escape(title)}</text>', *_axes(x, y, axis)]
    for line in lines:
        path = " ".join(f"{a},{b}" for a, b in line)
        parts.append(f'<polyline class="interval" fill="none" points="{path}"/>')
        parts += [f'<circle class="point" cx="{a}" cy="{b}" r="3.5"/>' for a, b in line]
    parts += _names([s.name for s in series], [min(line, key=lambda p: p[1]) for line in lines])
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
    ground = f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>'
    return "\n".join([head, f"<style>{STYLE}\n</style>", ground, *parts, "</svg>", ""])


def _axes(x: Scale, y: Scale, axis: str) -> list[str]:
    out = []
    for t in y.ticks:
        out.append(f'<line class="grid" x1="{LEFT}" y1="{y(t)}" x2="{RIGHT}" y2="{y(t)}"/>')
        out.append(f'<text class="faint" x="{LEFT - 8}" y="{y(t) + 4}" text-anchor="end">{t:.0f}</text>')
    for t in x.ticks:
        out.append(f'<line class="axis" x1="{x(t)}" y1="{BOTTOM}" x2="{x(t)}" y2="{BOTTOM + 4}"/>')
        text = f"{t:,.0f}" if t >= 10 else f"{t:g}"
        out.append(f'<text class="faint" x="{x(t)}" y="{BOTTOM + 18}" text-anchor="middle">{text}</text>')
    out.append(f'<line class="axis" x1="{LEFT}" y1="{BOTTOM}" x2="{RIGHT}" y2="{BOTTOM}"/>')
    return [*out, f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(axis)}</text>']


def _names(names: list[str], at: list[Place]) -> list[str]:
    """Labels, and a thin line from each that does not stand beside its point."""
    out = []
    for name, (x, y), place in zip(
        names, at, place_labels(at, [EM * len(n) for n in names], (LEFT, TOP, RIGHT, BOTTOM)), strict=True
    ):
        if place is None:
            continue
        left, edge = place[0] < x, place[0] + EM * len(name) * (place[0] < x)
        if abs(place[1] - y) > ROW / 2:
            out.append(f'<line class="leader" x1="{x}" y1="{y}" x2="{edge}" y2="{place[1]}"/>')
        anchor = "end" if left else "start"
        out.append(f'<text class="name" x="{edge}" y="{place[1] + 4}" text-anchor="{anchor}">{escape(name)}</text>')
    return out
