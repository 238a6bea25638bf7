"""README's figure: accuracy against trained parameters, as SVG text, each point with its name beside it.

The same bytes from the same rows. reports/index.html draws its own, with other axes to choose from (page.js).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from itertools import product

import pandas as pd

from harness.report.columns import Row, full_name, known
from harness.report.readme import split

WIDTH, HEIGHT = 860, 540
LEFT, TOP, RIGHT, BOTTOM = 52.0, 34.0, WIDTH - 16.0, HEIGHT - 50.0  # edges of the plot
ROW, EM = 14.0, 7.0  # height of a label, and the width of its average letter at 12 px, generously
STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1a1a1a }
.paper { fill: #fff } .faint { fill: #666 } .grid { stroke: #e4e4e4 } .axis, .leader { stroke: #999; fill: none }
.front { stroke: #666; stroke-dasharray: 5 4; fill: none } .reference { stroke: #d55e00; stroke-dasharray: 2 3 }
.interval { stroke: #0072b2; stroke-opacity: .45 } .seeds { stroke: #0072b2; stroke-width: 7; stroke-opacity: .25 }
.point, .band { fill: #0072b2 } .band { fill-opacity: .15 }
.line { stroke: #0072b2; stroke-width: 1.5 }
.name { paint-order: stroke; stroke: #fff; stroke-width: 3px; stroke-linejoin: round }
@media (prefers-color-scheme: dark) { text { fill: #e6e6e6 } .paper { fill: #16181b } .faint { fill: #a0a0a0 }
  .grid { stroke: #2c2f34 } .front { stroke: #a0a0a0 } .interval, .seeds { stroke: #56b4e9 }
  .line { stroke: #56b4e9 } .point, .band { fill: #56b4e9 }
  .name { stroke: #16181b } }"""


def accuracy_figure(title: str, part: pd.DataFrame) -> str:
    """The chosen rows of one section. A line at the untrained and the fully trained model; a point for every other."""
    adapters, references = split(part[part["accuracy"].notna()])
    rows = [row for _, row in adapters.iterrows() if row["params"]]
    if not rows:
        return ""
    ends = [100 * row[c] for row in rows for c in ("low", "accuracy", "high") if known(row[c])]
    near = 0.35 * (max(ends) - min(ends))  # references beyond are arrows
    accuracies = [100 * row["accuracy"] for row in references]
    ends += [a for a in accuracies if min(ends) - near < a < max(ends) + near]
    x = Scale.logarithmic([float(row["params"]) for row in rows], LEFT, RIGHT)
    y = Scale.linear(ends, BOTTOM, TOP)
    at = [(x(float(row["params"])), y(100 * row["accuracy"])) for row in rows]
    parts = [
        *axes(x, y, "trained parameters; dashed: the Pareto front"),
        *_front(rows, x, y),
        *(_reference(row, y) for row in references),
    ]
    parts += [_point(row, *place, y) for row, place in zip(rows, at, strict=True)]
    parts += names([full_name(row) for row in rows], at)
    return figure(f"{title}: test accuracy, %, with 95 % intervals; bands: range of seeds", parts)


def figure(title: str, parts: list[str]) -> str:
    """The whole SVG."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
    ground = f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>'
    heading = f'<text x="{LEFT}" y="20">{escape(title)}</text>'
    return "\n".join([head, f"<style>{STYLE}\n</style>", ground, heading, *parts, "</svg>", ""])


@dataclass(frozen=True)
class Scale:
    """From a value to a place in the figure. ticks: values with a mark."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    log: bool = False

    @classmethod
    def linear(cls, values: list[float], start: float, end: float) -> Scale:
        """Of percentages: from one multiple of the tick distance to another."""
        step = 10 if max(values) - min(values) > 30 else 5
        low, high = step * math.floor(min(values) / step), step * math.ceil(max(values) / step)
        high = max(high, low + step)
        return cls(float(low), float(high), start, end, tuple(float(t) for t in range(low, high + 1, step)))

    @classmethod
    def logarithmic(cls, values: list[float], start: float, end: float) -> Scale:
        ratio = max(values) / min(values)
        margin = min(1.6, max(ratio**0.1, (2 / ratio) ** 0.5))  # from low to high at least a factor 2: there is a tick
        low, high = min(values) / margin, max(values) * margin
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
        decades = math.log10(high / low)
        factors = (1,) if decades > 2 else (1, 2, 5) if decades > 0.6 else range(1, 10)
        ticks = (f * 10.0**e for e, f in product(exponents, factors))
        return cls(low, high, start, end, tuple(t for t in ticks if low <= t <= high), log=True)

    def __call__(self, value: float) -> float:
        low, high, v = (math.log(n) for n in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return round(self.start + (self.end - self.start) * (v - low) / (high - low), 1)


# -- parts of the figure -----------------------------------------------------------------------------------------------
def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def axes(x: Scale, y: Scale, name: str) -> list[str]:
    """Both axes with their ticks. name: of the one across."""
    out = [_line("grid", LEFT, y(t), RIGHT, y(t)) for t in y.ticks]
    out += [_text(LEFT - 8, y(t) + 4, f"{t:.0f}", "end", "faint") for t in y.ticks]
    out += [_text(x(t), BOTTOM + 18, f"{t:,.0f}" if t >= 10 else f"{t:g}", "middle", "faint") for t in x.ticks]
    out += [_line("axis", x(t), BOTTOM, x(t), BOTTOM + 4) for t in x.ticks]
    out.append(_line("axis", LEFT, BOTTOM, RIGHT, BOTTOM))
    return [*out, _text((LEFT + RIGHT) / 2, HEIGHT - 10.0, name, "middle")]


def _front(rows: list[Row], x: Scale, y: Scale) -> list[str]:
    """Steps between the points that nothing with as few parameters beats."""
    front = pareto([(float(row["params"]), 100 * row["accuracy"]) for row in rows])
    steps = "".join(f"H{x(cost)}V{y(worth)}" for cost, worth in front[1:])
    return [f'<path class="front" d="M{x(front[0][0])} {y(front[0][1])}{steps}H{RIGHT}"/>']


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, worth), those that nothing cheaper or as cheap beats, cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, worth in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or worth > front[-1][1]:
            front.append((cost, worth))
    return front


def _reference(row: Row, y: Scale) -> str:
    """A line with its name, or an arrow where it lies outside the plot."""
    at, name = y(100 * row["accuracy"]), f"{full_name(row)} {100 * row['accuracy']:.1f}"
    if at > BOTTOM:  # right, where the plot is empty below
        return _text(RIGHT - 4, BOTTOM - 6, f"↓ {name}", "end")
    if at < TOP:
        return _text(LEFT + 4, TOP + 10, f"↑ {name}")
    return _line("reference", LEFT, at, RIGHT, at) + _text(RIGHT - 4, at - 4, name, "end")


def _point(row: Row, x: float, at: float, y: Scale) -> str:
    ends = (("seeds", "seed_low", "seed_high"), ("interval", "low", "high"))
    bars = [_line(kind, x, y(100 * row[a]), x, y(100 * row[b])) for kind, a, b in ends if known(row[a])]
    return "".join([*bars, f'<circle class="point" cx="{x}" cy="{at}" r="4.5"/>'])


def names(texts: list[str], at: list[tuple[float, float]]) -> list[str]:
    """Labels, and a thin line from each that does not stand beside its point."""
    out = []
    places = place_labels(at, [EM * len(text) for text in texts], (LEFT, TOP, RIGHT, BOTTOM))
    for text, (x, y), place in zip(texts, at, places, strict=True):
        if place is None:
            continue
        left = place[0] < x
        if abs(place[1] - y) > ROW / 2:
            out.append(_line("leader", x, y, place[0] + (EM * len(text) if left else -2), place[1]))
        out.append(_text(place[0] + EM * len(text) * left, place[1] + 4, text, "end" if left else "start", "name"))
    return out


# -- labels ------------------------------------------------------------------------------------------------------------
def place_labels(
    points: list[tuple[float, float]], widths: list[float], box: tuple[float, float, float, float]
) -> list[tuple[float, float] | None]:
    """Left edge and middle of each label: as near to its point as is free, right or left; None where nothing is.

    Points keep their places; no label covers another or a point. box: left, top, right, bottom.
    """
    marks = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    taken: list[tuple[float, float, float, float]] = []
    out = []
    shifts = sorted(range(-12, 13), key=abs)
    for (x, y), width in zip(points, widths, strict=True):
        sides = ((x + 8 + abs(s) * 1.5, y + s * ROW / 2, s) for s in shifts)
        tries = (left for right, at, s in sides for left in ((right, at), (2 * x - right - width, at)))
        rects = ((left, at - ROW / 2, left + width, at + ROW / 2) for left, at in tries)
        free = (r for r in rects if _inside(r, box) and not any(_overlap(r, other) for other in marks + taken))
        place = next(free, None)
        out.append((round(place[0], 1), round(place[1] + ROW / 2, 1)) if place else None)
        taken += [place] if place else []
    return out


def _inside(r: tuple[float, ...], box: tuple[float, ...]) -> bool:
    return r[0] >= box[0] and r[1] >= box[1] and r[2] <= box[2] and r[3] <= box[3]


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
