"""`lr=tuned`: the learning rate with the best validation accuracy among finished runs that differ in nothing else."""

from __future__ import annotations

import dataclasses
from statistics import mean
from typing import Any

from harness.config.job import Job
from harness.errors import refuse
from harness.records.ids import science
from harness.records.record import FINAL
from harness.records.store import PUBLISHED, read_record

FREE = ("lr", "seed")  # what the runs that are compared may differ in


def with_tuned_lr(job: Job) -> Job:
    """`job` with its lr chosen from the records under runs_dir and runs/published.

    Validation only; the test set has no say. Ties go to the smaller lr; a diverged run counts as accuracy 0. Raises
    BadInput when fewer than two learning rates have finished.
    """
    curve = lr_curve(job)
    if len(curve) < 2:
        remedy = f"Run a grid first: python train.py -m variant={job.variant} lr=1e-4,3e-4,1e-3 …"
        got = sorted(curve)
        raise refuse("lr", "tuned needs finished runs at two or more learning rates", got=got, remedy=remedy)
    best = max(sorted(curve), key=lambda lr: curve[lr])
    return dataclasses.replace(job, lr=best, lr_chosen="tuned")


def lr_curve(job: Job) -> dict[float, float]:
    """lr → mean validation accuracy of finished runs with the job's science but for lr and seed.

    Over the seeds that every rate has, so that no rate wins by an easy seed; over all where there is no such seed.
    """
    wanted = _fixed(science(job))
    found: dict[float, dict[int, float]] = {}
    for folder in (job.runs_dir, PUBLISHED):
        for path in sorted(folder.glob("*/result.json")):
            record = read_record(path.parent)
            if record is None or record["status"] not in FINAL or _fixed(record.get("science", {})) != wanted:
                continue
            accuracy = record["valid"]["accuracy"] if record["status"] == "done" else 0.0
            found.setdefault(float(record["lr"]), {})[record["seed"]] = accuracy
    shared = set.intersection(*map(set, found.values())) if found else set()
    return {lr: mean(a for s, a in by_seed.items() if s in shared or not shared) for lr, by_seed in found.items()}


def _fixed(science: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in science.items() if k not in FREE}
