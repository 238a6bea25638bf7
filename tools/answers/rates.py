"""docs/findings.md: does response loss predict accuracy, and how much does the learning rate matter?"""

from __future__ import annotations

import math
from statistics import mean, median

from harness.report.learning_rates import Curve
from harness.report.sections import Cell
from tools._chart import Series, chart
from tools._rank_order import FEWEST, agreeing, better_half, in_words
from tools._studied import CLOSE, Studied, accuracy, by_loss, linked, response_loss

BESIDE = {-1.0: "a tenth", -0.5: "a third", 0.5: "three times", 1.0: "ten times"}  # log₁₀ of the factor


def loss(studied: Studied) -> tuple[str, str]:
    """How well response loss predicts accuracy, over adapters and over learning rates."""
    used = [c for c in studied.usual if c.chosen.responses]
    if len(used) < FEWEST:
        return "", ""
    right, low = [accuracy(c.chosen) for c in used], [-response_loss(c.chosen) for c in used]
    far = agreeing(low, right, least=0.05)
    other = [c for c in used if len(c.points) > 1 and by_loss(c.cells) is not c.chosen]
    cost = {c.chosen.label: 100 * (_at_shared_seed(c, c.chosen) - _at_shared_seed(c, by_loss(c.cells))) for c in other}
    lines = [
        "* Between low loss and high accuracy, over adapters at their chosen learning rates: "
        f"ρ {in_words(low, right)}, and the same order in {far[0]} of the {far[1]} pairs more than 5 points apart.",
        f"* Between learning rates: the lowest validation loss picks another rate than the best validation accuracy "
        f"for {len(other)} of {len(used)} adapters.",
    ]
    if len(used) // 2 >= FEWEST:
        lines[0] += f" Among the better half alone, ρ {better_half(right, low)}."
    if cost:
        worst = max(cost, key=lambda name: cost[name])
        lines[1] += (
            f" On the test set that costs {mean(cost.values()):.1f} points on average over these, at most "
            f"{cost[worst]:.1f} (`{worst}`), at the seeds that all rates have."
        )
    series = [Series(c.chosen.label, [(response_loss(c.chosen), 100 * accuracy(c.chosen))]) for c in used]
    return "\n".join(lines), chart("Test accuracy, %", "response loss, nats per token of the test references", series)


def _at_shared_seed(curve: Curve, cell: Cell) -> float:
    """Test accuracy at the seeds that every rate of the curve has (all of the cell's, where there is none)."""
    shared = set.intersection(*(set(c.validation) for c in curve.cells if c.validation))
    runs = [r for r in cell.done if r["seed"] in shared] or cell.done
    return mean(r["test"]["accuracy"] for r in runs)


def _plateaus(used: list[Curve]) -> str:
    """Which adapters have one good rate alone, of those that were tried."""
    alone = [c for c in used if sum(p.valid >= c.points[c.chosen.name].valid - CLOSE for p in c.points.values()) == 1]
    names = ", ".join(linked(c.chosen) for c in alone) or "none"
    return f"* {len(alone)} of {len(used)} adapters have no second rate within 2 points of the best: {names}."


def rates(studied: Studied) -> tuple[str, str]:
    """How much is lost beside the best learning rate."""
    used = [c for c in studied.usual if len(c.points) > 2]
    if not used:
        return "", ""
    series = []
    beside: dict[float, list[float]] = {}  # log₁₀ of the rate ÷ the best one, to a half → points below
    for c in used:
        tried = sorted(c.points.values(), key=lambda p: p.lr)
        best = c.points[c.chosen.name]
        below = [(p.lr / best.lr, 100 * (p.valid - best.valid)) for p in tried]
        series.append(Series("", below))
        for factor, lost in below:
            beside.setdefault(round(2 * math.log10(factor)) / 2, []).append(lost)
    often = {e: median(lost) for e, lost in sorted(beside.items()) if len(lost) > len(used) / 2}
    said = [f"{0.0 - often[e]:.1f} at {word} ({len(beside[e])} adapters)" for e, word in BESIDE.items() if e in often]
    series.append(Series("median", [(10**e, lost) for e, lost in often.items()]))
    lines = [_plateaus(used)]
    if said:
        lines.insert(0, f"* Median drop in accuracy from the best rate, points: {', '.join(said)}.")
    return "\n".join(lines), chart(
        "Validation accuracy minus that at the best rate, points", "rate ÷ best rate", series
    )
