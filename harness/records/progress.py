"""Progress of a sweep, read from its records, so that it works with every launcher."""

from __future__ import annotations

import os
import time
from pathlib import Path

from harness.records.record import OUTCOMES
from harness.records.store import read_record

SWEEP = "HOOKBENCH_SWEEP"  # environment variable of a sweep's jobs: when it began, and how many runs it has to do


def begin_sweep(runs: int) -> float:
    """Tells this process and its children that a sweep of `runs` runs begins. Returns the time."""
    began = time.time()
    os.environ[SWEEP] = f"{began}:{runs}"
    return began


def end_sweep() -> None:
    os.environ.pop(SWEEP, None)


def done_in_this_sweep(folder: Path) -> bool:
    """Whether a run has ended since the sweep began; False outside a sweep."""
    if SWEEP not in os.environ or written(folder) < float(os.environ[SWEEP].split(":")[0]):
        return False
    record = read_record(folder)
    return record is not None and record["status"] in OUTCOMES


def progress(runs_dir: Path) -> str:
    """` [3 of 10 runs done, about 24 min left]` at the sweep's pace so far; "" outside a sweep."""
    if SWEEP not in os.environ:
        return ""
    began, runs = (float(part) for part in os.environ[SWEEP].split(":"))
    done = sum(done_in_this_sweep(path.parent) for path in runs_dir.glob("*/result.json"))
    left = (time.time() - began) / max(done, 1) * (runs - done)
    return f" [{done} of {runs:.0f} runs done" + (f", {duration(left)} left]" if 0 < done < runs else "]")


def written(folder: Path) -> float:
    """When a run's record was written; 0 if there is none."""
    try:
        return (folder / "result.json").stat().st_mtime
    except OSError:
        return 0.0


def duration(seconds: float) -> str:
    """`about 40 s`, `about 12 min`, `about 3.5 h`"""
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 6000 else f"about {seconds / 3600:.1f} h"
