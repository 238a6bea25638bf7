"""How long a run will take, from the records of finished runs that are like it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from harness.job import Job
from harness.provenance import device_name
from harness.table import read_records


def finished_runs(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Records of runs that are done, in any of the folders."""
    return [r for r in read_records(sorted(folders)).records if r["status"] == "done"]


def estimate(job: Job, known: list[dict[str, Any]]) -> float | None:
    """Seconds: training scaled by steps and examples per step, the rest by questions. None where nothing is alike.

    From runs of the same variant where there are any, else of all; on the same kind of device where there are any.
    """
    alike = [r for r in known if _setting(r) == (job.benchmark, job.model.name, job.quantization)]
    alike = [r for r in alike if (r["steps"] > 0) == job.trains]
    alike = [r for r in alike if r["variant"] == job.variant] or alike
    here = device_name(job.device)
    alike = [r for r in alike if r["provenance"]["device"] == here] or alike
    if not alike:
        return None
    example, others = 0.0, [r["seconds"] - r.get("train", {}).get("seconds", 0.0) for r in alike]
    if job.trains:
        example = median(r["train"]["seconds"] / (r["steps"] * r["science"]["batch_size"]) for r in alike)
    question = median(s / (r["test"]["total"] + r["valid"]["total"]) for s, r in zip(others, alike, strict=True))
    asked = median(r["test"]["total"] + r["valid"]["total"] for r in alike)
    if job.eval_limit is not None:
        asked = min(asked, 2 * job.eval_limit)
    return example * job.steps * job.batch_size + question * asked


def duration(seconds: float) -> str:
    """`about 40 s`, `about 12 min`, `about 3.5 h`"""
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 6000 else f"about {seconds / 3600:.1f} h"


def _setting(record: dict[str, Any]) -> tuple[str, str, str]:
    return record["benchmark"], record["model"], record["quantization"]
