"""docs/findings.md: dense block or low-rank core, and how large?"""

from __future__ import annotations

from statistics import median
from typing import Any

import pandas as pd

from harness.report.learning_rates import Curve
from harness.report.markdown import grid
from harness.report.notes import span
from harness.report.sections import Cell
from harness.report.stats import ALPHA, Estimate, estimate, holm
from tools._chart import Series, chart
from tools._studied import Studied, accuracy, linked, parameters, points

DENSE, LOW_RANK = "antipasto_arrow", "antipasto_dplr"
NEAR = 0.06  # relative difference of the trained parameters of a pair of nearly equal size


def cores(studied: Studied, norms: dict[str, Any]) -> tuple[str, str]:
    """Pairs of nearly equal size, at their best rates (table) and at each (figure); what each did to the weights."""
    pairs = _pairs(studied)
    if len(pairs) < 2:
        return "", ""
    cells = [[{c.first["lr"] or 0.0: c for c in curve.cells if c.measures_seeds} for curve in pair] for pair in pairs]
    rates = sorted({lr for block, low in cells for lr in block.keys() & low.keys()})
    whole = set.intersection(*({c.first["lr"] or 0.0 for c in curve.cells} for pair in pairs for curve in pair))
    best = [estimate(low.chosen.right, block.chosen.right) for block, low in pairs]
    body = [
        [f"{_size(block):,} / {_size(low):,}", _at_best(block), _at_best(low), points(difference)]
        for (block, low), difference in zip(pairs, best, strict=True)
    ]
    head = ["trained parameters", "dense block, %", "low-rank core, %", "core − block, points"]
    series = [
        _line(f"{word}, lr {lr:g}", [c[n][lr] for c in cells if lr in c[n]], second=n == 0)
        for lr in rates
        for n, word in enumerate(("block", "core"))
    ]
    at = {
        lr: [estimate(low[lr].right, block[lr].right) for block, low in cells if lr in block and lr in low]
        for lr in rates
    }
    text = "\n".join([*grid(head, body), "", _verdict(best, at), "", _moved(studied, norms, whole)])
    return text, chart("Test accuracy, %", "trained parameters", series)


def _verdict(best: list[Estimate], at: dict[float, list[Estimate]]) -> str:
    """best, at: differences of the pairs at their best rates and at each."""
    clear = [e for e, p in zip(best, holm([e.p for e in best]), strict=True) if p < ALPHA]
    each = "; ".join(f"at {lr:g} {_signs(found)} of {len(found)}" for lr, found in at.items())
    return (
        "* Pairs in which the core is better / worse, the interval without 0: at their best rates "
        f"{_signs(best)} of {len(best)} (after Holm {_signs(clear)}); {each}."
    )


def _signs(differences: list[Estimate]) -> str:
    return f"{sum(e.low > 0 for e in differences)} / {sum(e.high < 0 for e in differences)}"


def _pairs(studied: Studied) -> list[tuple[Curve, Curve]]:
    """(block, core) of nearly equal size, smallest first."""
    pairs = []
    dense = [c for c in studied.repeated if c.chosen.first["variant"] == DENSE]
    for low in (c for c in studied.repeated if c.chosen.first["variant"] == LOW_RANK):
        near = min(dense, key=lambda d: abs(_size(d) / _size(low) - 1), default=None)
        if near is not None and abs(_size(near) / _size(low) - 1) <= NEAR:
            pairs.append((near, low))
    return sorted(pairs, key=lambda pair: _size(pair[1]))


def _line(name: str, cells: list[Cell], *, second: bool = False) -> Series:
    """Accuracy over trained parameters, with a band from the worst to the best seed."""
    ordered = sorted(cells, key=parameters)
    places = [(float(parameters(c)), 100 * accuracy(c)) for c in ordered]
    return Series(name, places, [_seeds(c) for c in ordered], second)


def _size(curve: Curve) -> int:
    return parameters(curve.chosen)


def _own_size(cell: Cell) -> str:
    """`r 4`, `block 12`, `core rank 2`, or `default`."""
    size = cell.label.removeprefix(cell.first["variant"]).strip(" ()") or "default"
    return size.replace("lora rank", "core rank")


def _at_best(curve: Curve) -> str:
    edge = ", edge" if curve.edge else ", the only one" if len(curve.points) == 1 else ""
    name = linked(curve.chosen, _own_size(curve.chosen))
    return f"{name} {100 * accuracy(curve.chosen):.1f} (lr {curve.chosen.first['lr']:g}{edge})"


def _moved(studied: Studied, norms: dict[str, Any], rates: set[float]) -> str:
    """Per variant and one of these rates, over the sizes: runs that failed; medians of the largest layers' norms."""
    body = []
    runs = [(r["variant"], r["lr"], r) for c in studied.curves for cell in c.cells for r in cell.runs]
    for variant, lr in sorted({(v, lr or 0.0) for v, lr, _ in runs if v in (DENSE, LOW_RANK) and lr in rates}):
        own = [r for v, rate, r in runs if (v, rate) == (variant, lr)]
        bad = [
            r
            for r in own
            if r["status"] == "diverged" or (r["status"] == "done" and r["test"]["accuracy"] < studied.floor)
        ]
        there = [norms[r["run_id"]] for r in own if norms.get(r["run_id"], {}).get("science_hash") == r["science_hash"]]
        sizes = [_median([max(n[key]) for n in there if n[key]]) for key in ("update", "share")]
        body.append([variant, f"{lr:g}", f"{len(bad)} of {len(own)}", *sizes])
    head = ["variant", "lr", "diverged or below the floor", "σ₁(ΔW)", "‖ΔW‖/‖W‖"]
    note = (
        f"All sizes together. Floor: the untrained model's {100 * studied.floor:.1f} %. σ₁: largest singular value. "
        "Norms are of the layer where they are largest, the median over the runs whose adapter was at hand (–: none)."
    )
    return "\n".join(grid(head, body)) + "\n\n" + note


def _median(values: list[float]) -> str:
    return f"{median(values):.3g}" if values else "–"


def sizes(studied: Studied) -> tuple[str, str]:
    """Accuracy over trained parameters, for variants that ran at three sizes or more."""
    by_variant: dict[str, list[Curve]] = {}
    for c in studied.curves:
        by_variant.setdefault(c.chosen.first["variant"], []).append(c)
    shown = {v: sorted(own, key=_size) for v, own in sorted(by_variant.items()) if len(set(map(_size, own))) >= 3}
    if not shown:
        return "", ""
    lines = [f"* `{variant}`: {_by_size(own)}" for variant, own in shown.items() if variant not in (DENSE, LOW_RANK)]
    series = [_line(v, [c.chosen for c in own], second=n % 2 == 1) for n, (v, own) in enumerate(shown.items())]
    return "\n".join(lines), chart("Test accuracy, %", "trained parameters", series)


def _by_size(curves: list[Curve]) -> str:
    """Every size with its accuracy, the last step with its interval, and how many learning rates stand behind each."""
    cells = [c.chosen for c in curves]
    each = ", ".join(f"{linked(c, _own_size(c))} {100 * accuracy(c):.1f} ({parameters(c):,})" for c in cells)
    step = points(estimate(cells[-1].right, cells[-2].right))
    tried = span(pd.Series([len(c.points) for c in curves]))
    return f"{each}. Largest minus next: {step}. Learning rates tried per size: {tried}."


def _seeds(cell: Cell) -> tuple[float, float]:
    """Accuracy in percent of the worst and of the best seed."""
    by_seed = 100 * cell.right.mean(axis=1)
    return float(by_seed.min()), float(by_seed.max())
