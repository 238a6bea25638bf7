"""docs/findings.md: does response loss predict accuracy, and how much does the learning rate matter?"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import mean, median

import numpy as np
from numpy.typing import NDArray

from harness.evaluation.metrics import from_bits
from harness.report.learning_rates import Curve
from harness.report.sections import Cell
from tools._chart import Series, chart
from tools._rank_order import FEWEST, agreeing, better_half, in_words
from tools._studied import Studied, accuracy, by_loss, response_loss

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


def _chosen_again(used: list[Curve]) -> str:
    """How often the same rate would be chosen on other validation questions, and what that does to test accuracy."""
    same, spread = {}, {}
    for c in used:
        cells = [cell for cell in c.cells if cell.validation]
        seeds = set.intersection(*(set(cell.validation) for cell in cells))
        questions = c.chosen.first["valid"]["total"]
        shares = np.array([_answered(cell, seeds, questions) for cell in cells])
        best = (_resampled(questions) @ shares.T).argmax(axis=1)
        tests = np.array([_at_shared_seed(c, cell) if cell.done else 0.0 for cell in cells])
        same[c.chosen.label] = float((best == cells.index(c.chosen)).mean())
        spread[c.chosen.label] = float(100 * tests[best].std())
    most = max(spread, key=lambda name: spread[name])
    return (
        "* Choosing again on other validation questions (bootstrap, seeds aside) keeps the rate in "
        f"{100 * median(same.values()):.0f} % of draws and moves test accuracy by a standard deviation of "
        f"{median(spread.values()):.1f} points (median adapter; most {spread[most]:.1f}, `{most}`); no interval here "
        "includes that."
    )


def _answered(cell: Cell, seeds: set[int | None], questions: int) -> NDArray[np.float64]:
    """Share of these seeds (all, where there is none) that answer each validation question; none, if they diverged."""
    runs = [r for r in cell.runs if r["seed"] in seeds or not seeds]
    right = np.zeros((len(runs), questions), dtype=bool)
    for row, r in zip(right, runs, strict=True):
        if r["status"] == "done":
            row[:] = from_bits(r["valid"]["correct_bits"], r["valid"]["total"])
    shares: NDArray[np.float64] = right.mean(axis=0)
    return shares


@lru_cache(maxsize=2)
def _resampled(questions: int) -> NDArray[np.float64]:
    """How often each question is drawn, (draws, questions)."""
    return np.random.default_rng(0).multinomial(questions, [1 / questions] * questions, size=2000).astype(float)


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
    lines = [_chosen_again(used)]
    if said:
        lines.insert(0, f"* Median drop in accuracy from the best rate, points: {', '.join(said)}.")
    return "\n".join(lines), chart(
        "Validation accuracy minus that at the best rate, points", "rate ÷ best rate", series
    )
