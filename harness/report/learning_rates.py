"""The table of learning rates: what each rate of each variant gave on validation, and which one was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.report.columns import known, label, number
from harness.report.sections import Cell

RATE_COLUMNS = ["variant", "lr", "validation accuracy, %", "seeds compared", "runs", "diverged", "failed", "chosen"]


def rate_rows(part: pd.DataFrame) -> list[list[tuple[str, Any]]]:
    """(text, sort key) cells of every variant that ran at two rates or more; [] where there is none."""
    tried = part[(part.groupby("curve")["lr"].transform("nunique") > 1) & part["lr"].notna()]
    chosen = part[part["chosen"]]
    twice = set(chosen.loc[chosen.duplicated(["variant", "quantization"], keep=False), "cell"])
    plain = tried.assign(curve_diverged=0, curve_failed=0).sort_values(["curve", "lr"])
    return [_cells(row, label(row, row["curve"] in twice)) for _, row in plain.iterrows()]


def _cells(row: Any, name: str) -> list[tuple[str, Any]]:
    runs = row["seeds"] + row["diverged"] + row["failed"]
    mark = ("yes, at the grid's edge" if row["edge"] else "yes") if row["chosen"] else ""
    accuracy = number(row["valid_common"], ".1f", 100.0)
    counts = [(str(n), n) for n in (row["valid_seeds"], runs, row["diverged"], row["failed"])]
    value = row["valid_common"] if known(row["valid_common"]) else None
    return [(name, name), (number(row["lr"], "g"), row["lr"]), (accuracy, value), *counts, (mark, mark)]


# -- the learning rate -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Point:
    """One learning rate of a variant: mean validation accuracy over the seeds that all its learning rates ran."""

    cell: Cell
    lr: float | None
    valid: float
    seeds: int


@dataclass(frozen=True)
class Curve:
    """Validation accuracy against the learning rate. The test set has no say; ties go to the smaller rate."""

    cells: list[Cell]
    points: list[Point]
    chosen: Cell
    edge: bool  # the best rate is the grid's smallest or largest: the true optimum may lie outside


def curves(cells: list[Cell]) -> list[Curve]:
    """One per variant and setting, from its cells. A diverged run counts as accuracy 0, a failed one not at all."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.config, []).append(cell)
    return [_curve(group) for group in groups.values()]


def _curve(cells: list[Cell]) -> Curve:
    ended = sorted((c for c in cells if c.validation), key=lambda c: (c.first["lr"] or 0.0, c.name))
    if not ended:
        return Curve(cells, [], cells[0], edge=False)
    # More seeds at the rate chosen first must not change the choice: an equal budget for every rate.
    common = set.intersection(*(set(c.validation) for c in ended))
    points = []
    for cell in ended:
        values = [v for seed, v in cell.validation.items() if seed in common or not common]
        points.append(Point(cell, cell.first["lr"], float(np.mean(values)), len(values)))
    best = max(range(len(points)), key=lambda n: (points[n].valid, -n))
    edge = len(points) > 1 and best in (0, len(points) - 1)
    return Curve(cells, points, points[best].cell, edge)
