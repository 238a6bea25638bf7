"""The table of learning rates: what each rate of each variant gave on validation, and which one was chosen."""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.columns import known, label, number

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
