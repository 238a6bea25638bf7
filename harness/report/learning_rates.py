"""The table of learning rates: validation accuracy of each, per variant, and which one was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.records.choose_lr import Point, choose
from harness.report.columns import full_name, known, number
from harness.report.sections import Cell

RATE_COLUMNS = ["variant", "lr", "validation accuracy, %", "seeds compared", "runs", "diverged", "failed", "chosen"]


def rate_rows(part: pd.DataFrame) -> list[list[tuple[str, Any]]]:
    """(text, sort key) cells of every variant that ran at two or more learning rates."""
    tried = part[(part.groupby("curve")["lr"].transform("nunique") > 1) & part["lr"].notna()]
    return [_cells(row, full_name(row)) for _, row in tried.sort_values(["curve", "lr"]).iterrows()]


def _cells(row: Any, name: str) -> list[tuple[str, Any]]:
    runs = row["seeds"] + row["diverged"] + row["failed"]
    mark = ("yes, at the grid's edge" if row["edge"] else "yes") if row["chosen"] else ""
    accuracy = number(row["valid_common"], ".1f", 100.0)
    counts = [(str(n), n) for n in (row["valid_seeds"], runs, row["diverged"], row["failed"])]
    value = row["valid_common"] if known(row["valid_common"]) else None
    return [(name, name), (number(row["lr"], "g"), row["lr"]), (accuracy, value), *counts, (mark, mark)]


# -- choosing ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Curve:
    """A variant's cells and the choice among their learning rates. points: by cell name, where there is an outcome."""

    cells: list[Cell]
    points: dict[str, Point]
    chosen: Cell
    edge: bool


def curves(cells: list[Cell]) -> list[Curve]:
    """One per variant and setting, from its cells. A diverged run counts as accuracy 0, a failed one not at all."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.config, []).append(cell)
    return [_curve(group) for group in groups.values()]


def _curve(cells: list[Cell]) -> Curve:
    ended = sorted((c for c in cells if c.validation), key=lambda c: (c.first["lr"] or 0.0, c.name))
    if not ended:
        return Curve(cells, {}, cells[0], edge=False)
    choice = choose([(c.first["lr"] or 0.0, c.validation) for c in ended])
    points = {c.name: point for c, point in zip(ended, choice.points, strict=True)}
    return Curve(cells, points, ended[choice.best], choice.edge)
