"""Curves and results to Weights & Biases, offline by default; records under runs/ are complete without it.

wandb is imported only when it is on. An error in it costs one line, never the run.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from harness.config.secrets import masked
from harness.errors import reason_of
from harness.files import write_text

if TYPE_CHECKING:
    from harness.config.job import Job
    from harness.records.plan import Plan

EXIT_CODES = {"done": 0, "interrupted": 130}  # of the run as the tracker shows it: a diverged one has not "finished"
# wandb collects only what is logged here, unless a WANDB_… variable asks for more.
QUIET = {"disable_git": True, "save_code": False, "disable_code": True, "console": "off", "silent": True}
QUIET |= {"x_disable_stats": True, "x_disable_meta": True, "x_save_requirements": False}
QUIET |= {"init_timeout": 30.0, "finish_timeout": 60.0}  # seconds a dead network may cost
T = TypeVar("T")


class NoTracker:
    """What every tracker can do, doing nothing."""

    def log(self, row: dict[str, Any]) -> None:
        """One row of metrics.jsonl."""

    def finish(self, record: dict[str, Any], error: BaseException | None) -> None:
        """The record, whatever its status; error: what ended the run, if anything."""


def start_tracking(plan: Plan, say: Callable[[str], None]) -> NoTracker | Wandb:
    """The tracker of a run whose folder exists. A resumed run continues the tracked run that it began."""
    return NoTracker() if plan.job.tracking.name == "none" else Wandb(plan, say)


class Wandb:
    """One wandb run, whose id lies in `checkpoint/` until the run is finished.

    A resumed run sends the whole curve again, from metrics.jsonl: of a killed process nothing may have arrived.
    Online, wandb leaves out the steps that it has; offline, the file of each session holds everything up to its end.
    """

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        job = plan.job
        self.say, self.metrics, self.sent = say, plan.folder / "metrics.jsonl", 0
        self.id = _tracked_id(plan)
        config = masked(job.composed | {"science": plan.science, "run_id": plan.id})
        config |= {"science_hash": plan.science_hash, "code_hash": plan.code_hash}
        self.run: Any = self._guarded(lambda: self._begin(job, plan.id, config, job.tracking.mode))
        if self.run is None and job.tracking.mode == "online":
            self.run = self._guarded(lambda: self._begin(job, plan.id, config, "offline"))

    def _begin(self, job: Job, name: str, config: dict[str, Any], mode: Any) -> Any:
        import wandb

        job.cache_dir.mkdir(parents=True, exist_ok=True)
        quiet = {k: v for k, v in QUIET.items() if f"WANDB_{k.removeprefix('x_').upper()}" not in os.environ}
        run = wandb.init(
            id=self.id,
            name=name,
            project=job.tracking.project,
            dir=str(job.cache_dir),  # wandb makes its own folder `wandb` in it
            config=config,
            mode=mode,
            resume="allow" if mode == "online" else None,
            settings=wandb.Settings(**quiet),
        )
        if mode == "offline":
            self.say(f"wandb (offline): upload it with wandb sync {Path(run.dir).parent}")
        return run

    def log(self, row: dict[str, Any]) -> None:
        self._catch_up(row["step"])
        self._send(row)

    def _catch_up(self, step: int) -> None:
        """Sends the rows of earlier sessions that come before `step`."""
        if self.run is None or self.sent >= step - 1 or not self.metrics.exists():
            return
        lines = self.metrics.read_text().splitlines()[self.sent : step - 1]
        for row in self._guarded(lambda: [json.loads(line) for line in lines]) or []:  # a kill may have cut one short
            self._send(row)

    def _send(self, row: dict[str, Any]) -> None:
        if self.run is not None:
            values, self.sent = {k: v for k, v in row.items() if k != "step"}, row["step"]
            self._guarded(lambda: self.run.log(values, step=row["step"], commit=True))

    def finish(self, record: dict[str, Any], error: BaseException | None) -> None:
        self._catch_up(record["steps"] + 1)  # where nothing was left to train
        if self.run is None:
            return
        if record["status"] == "running" and error is not None:  # the record of a failure is written further out
            record = record | {"status": "failed", "error": {"class": type(error).__name__, "message": str(error)}}
        result = {k: v for k, v in record.items() if k not in ("science", "provenance")}
        code = EXIT_CODES.get(record["status"], 1)
        self._guarded(lambda: (self.run.summary.update(result), self.run.finish(exit_code=code)))

    def _guarded(self, call: Callable[[], T]) -> T | None:
        """What `call` returns. An error of wandb's turns tracking off and is said in one line."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001 (a tracker may raise anything, and must not end a run)
            self.say(f"wandb: {reason_of(error)}; the run continues, and its record is complete without it")
            self.run = None
            return None


def _tracked_id(plan: Plan) -> str:
    """Id of this run's tracked run; a new one if none can be read."""
    mark = plan.folder / "checkpoint" / "tracking.json"
    try:
        known = json.loads(mark.read_text())["id"]
        if isinstance(known, str) and known:
            return known
    except (OSError, ValueError, KeyError, TypeError):
        pass
    # With the time: a run that is repeated (force=true, changed code) is another curve, not the old one.
    new = f"{plan.science_hash[:8]}-{time.time_ns():x}"
    write_text(mark, json.dumps({"id": new}))
    return new
