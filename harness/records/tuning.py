"""`lr=tuned`: the learning rate chosen from the records of finished runs that differ in nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from harness.config.job import Job
from harness.errors import refuse
from harness.inputs.fingerprints import Fingerprinter
from harness.paths import PUBLISHED
from harness.records.choose_lr import choose, validation
from harness.records.ids import science
from harness.records.record import Record
from harness.records.store import read_records

FREE = ("lr", "seed")  # what the runs that are compared may differ in


def with_tuned_lr(job: Job, fingerprinter: Fingerprinter) -> Job:
    """`job` with its lr chosen from the records under runs_dir and runs/published, by `choose`.

    Raises BadInput when fewer than two learning rates have finished.
    """
    curve = lr_curve(job, fingerprinter)
    if len(curve) < 2:
        remedy = f"Run a grid first: python train.py -m variant={job.variant} lr=1e-4,3e-4,1e-3 …"
        got = sorted(curve)
        raise refuse("lr", "tuned needs finished runs at two or more learning rates", got=got, remedy=remedy)
    chosen = choose(sorted(curve.items()))
    return dataclasses.replace(job, lr=chosen.points[chosen.best].lr, lr_chosen="tuned")


def lr_curve(
    job: Job, fingerprinter: Fingerprinter, worth: Callable[[Record], float | None] = validation
) -> dict[float, dict[int | None, float]]:
    """lr → seed → validation accuracy (or other worth) of finished runs with the job's science but for lr and seed."""
    fixed = _fixed(science(job, fingerprinter.of(job)))
    curve: dict[float, dict[int | None, float]] = {}
    for record in read_records([job.runs_dir, PUBLISHED]).records:
        value = worth(record)
        if value is not None and record["lr"] is not None and _fixed(record["science"]) == fixed:
            curve.setdefault(record["lr"], {})[record["seed"]] = value
    return curve


def _fixed(settings: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in settings.items() if k not in FREE}
