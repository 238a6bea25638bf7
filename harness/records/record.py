"""TODO harness.records.record"""

from __future__ import annotations

import traceback
from typing import Any

from harness.evaluation.metrics import from_bits
from harness.report.learning_rates import curves
from harness.report.sections import Cell, sections
from harness.report.table import _row
from harness.training.loop import TrainResult


def _place(error: BaseException) -> dict[str, str]:
    return {"class": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}


def _train_numbers(trained: TrainResult) -> dict[str, Any]:
    ends = max(1, min(20, len(trained.losses) // 10))  # a tenth of the run, at most 20 steps
    return {
        "loss_first": sum(trained.losses[:ends]) / ends,
        "loss_last": sum(trained.losses[-ends:]) / ends,
        "tokens": trained.tokens,
        "seconds": trained.seconds,
        "tokens_per_s": trained.tokens / trained.seconds,
    }


SCHEMA_VERSION = 1
FINAL = ("done", "diverged")  # outcomes; failed and interrupted runs are run again
OUTCOMES = ("done", "diverged", "failed")


def _check(record: dict[str, Any], name: str) -> None:
    """Raises KeyError, TypeError or ValueError for anything that could not stand in a table beside good records."""
    if record["run_id"] != name:
        raise ValueError(f"its run_id is {record['run_id']}")
    if record["schema_version"] != 1:
        raise ValueError(f"schema_version {record['schema_version']}, not 1")
    if record["status"] == "interrupted":
        raise ValueError("interrupted; the same command goes on with it")
    if record["status"] not in OUTCOMES:
        raise ValueError(f"status {record['status']}")
    cell = Cell(name, [record])
    _row(cell)
    sections([cell])
    curves([cell])
    if record["status"] == "done":
        for split in ("test", "valid"):
            m = record[split]
            right = from_bits(m["correct_bits"], m["total"])
            if len(right) != m["total"] or sum(right) != m["correct"]:
                raise ValueError(f"correct_bits of {split} are not {m['correct']} of {m['total']}")
