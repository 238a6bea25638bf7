"""How long a run will take, from the records of finished runs that are like it."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

from harness.config.job import Job
from harness.device import device_name
from harness.errors import BadInput
from harness.records.plan import plan
from harness.records.store import PUBLISHED, finished_runs
from harness.records.tuning import with_tuned_lr


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


class Sweep:
    """While entered, Hydra runs the jobs; on leaving, every one that is not finished is named, and the exit code is 1.

    Ctrl-C and SIGTERM keep their exit code 130.
    """

    def __init__(self, jobs: list[Job]) -> None:
        self.jobs, self.begun = jobs, time.time()

    def __enter__(self) -> Sweep:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        outcomes = dict(map(self.outcome, self.jobs))  # run id → why it is not finished
        left = {name: why for name, why in outcomes.items() if why}
        out = sys.stderr if left else sys.stdout
        print(f"sweep: {len(outcomes) - len(left)} of {len(outcomes)} runs are finished", file=out)
        for name, why in left.items():
            print(f"  {name}: {why}", file=out)
        if left:
            print("The same command does what is missing.", file=out, flush=True)
        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(130) from None
        if left and not (isinstance(error, SystemExit) and error.code):
            raise SystemExit(1) from None

    def outcome(self, job: Job) -> tuple[str, str]:
        """Run id, and why it is not finished; "" where it is."""
        try:
            made = plan(dataclasses.replace(_tuned(job), force=False))
        except BadInput as error:  # no rates to tune from, or a file that has gone
            return f"{job.variant} seed {job.seed}", str(error)
        new = _written(made.folder) >= self.begun
        if made.action == "skip":
            return made.id, "not run again" if job.force and not new else ""
        if made.action == "refuse":
            return made.id, f"finished before, but not with the same {made.reason}; force=true replaces it"
        if made.record is None or not new:
            return made.id, "not run" if made.action == "run" else "not finished"
        error_of = made.record.get("error")
        what = f", {error_of['class']}: {error_of['message'].splitlines()[0]}" if error_of else ""
        return made.id, f"{made.record['status']}{what} ({_shown(made.folder / 'result.json')})"


def dry_run(jobs: list[Job]) -> None:
    """Prints what each job would do and about how long it would take; loads no model and writes nothing.

    The time is that of finished runs of the same benchmark, model and quantization, scaled to steps and questions.
    """
    known = finished_runs({job.runs_dir for job in jobs} | {PUBLISHED})
    counts: dict[str, int] = {}
    seen: set[str] = set()
    total, unknown = 0.0, 0
    for job in jobs:
        name, action, note = _would(job)
        if name in seen:
            action, note = "skip", "the same run as above"
        seen.add(name)
        counts[action] = counts.get(action, 0) + 1
        if action in ("run", "resume"):
            seconds = estimate(job, known)
            total, unknown = total + (seconds or 0.0), unknown + (seconds is None)
            note = "time unknown" if seconds is None else duration(seconds)
        print(f"{action:8}{name}" + (f"  ({note})" if note else ""))
    done = ", ".join(f"{counts[a]} to {a}" for a in ("run", "resume", "skip", "refuse") if a in counts)
    jobs_ = f"{len(jobs)} job" + "s" * (len(jobs) != 1)
    print(f"{jobs_}: {done}" + (f"; {duration(total)} one after another" if total else ""), end="")
    print(f", and {unknown} of unknown length: no finished run is like them" if unknown else "", flush=True)


def _would(job: Job) -> tuple[str, str, str]:
    """Run id, action and a remark."""
    try:
        made = plan(_tuned(job))
    except BadInput as error:
        return f"{job.variant} seed {job.seed}", "refuse", str(error)
    return made.id, made.action, f"finished, but not with the same {made.reason}" if made.action == "refuse" else ""


def _tuned(job: Job) -> Job:
    return with_tuned_lr(job) if job.lr_chosen == "tuned" else job


def _written(folder: Path) -> float:
    """When a run's record was written; 0 where there is none."""
    try:
        return (folder / "result.json").stat().st_mtime
    except OSError:
        return 0.0


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
