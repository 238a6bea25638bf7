"""A sweep seen from its parent process: what each job would do, how long it would take, and how it ended.

Reads only the run folders, so it works the same with every launcher: no job reports across process boundaries.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from statistics import median
from types import TracebackType

from harness.config.job import Job
from harness.device import device_name
from harness.errors import BadInput
from harness.inputs.fingerprints import Fingerprinter
from harness.inputs.fit import check_fit
from harness.paths import PUBLISHED
from harness.records.lock import check_writable
from harness.records.plan import Plan, plan
from harness.records.progress import begin_sweep, duration, end_sweep, written
from harness.records.record import Record
from harness.records.store import read_records
from harness.records.tuning import with_tuned_lr

NEW = ("run", "resume")  # actions of jobs that are still to be done


class Sweep:
    """Hydra runs the jobs inside this context; at its end every unfinished job is named, and the exit code is 1.

    Ctrl-C and SIGTERM keep their exit code 130. The constructor raises BadInput for a job that cannot run.
    """

    def __init__(self, jobs: list[Job], fingerprinter: Fingerprinter, *, here: bool = True) -> None:
        self.jobs, self.fingerprinter = jobs, fingerprinter
        tuned = [job for job in jobs if job.lr_chosen == "tuned"]  # may be chosen from the jobs before them
        for job in tuned:
            check_fit(job, here=here)
        plans = [plan(job, fingerprinter) for job in jobs if job.lr_chosen != "tuned"]
        new = {p.id: p for p in plans if p.action in NEW}
        for planned in new.values():
            check_new(planned, here=here)
        if twice := len(plans) - len({p.id for p in plans}):
            print(f"sweep: {twice} of {len(jobs)} jobs repeat another run; each run is done once", flush=True)
        self.runs = len(new) + len(tuned)

    def __enter__(self) -> Sweep:
        self.began = begin_sweep(self.runs)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        end_sweep()
        outcomes = dict(map(self.outcome, self.jobs))  # run id → why it is not finished
        left = {name: why for name, why in outcomes.items() if why}
        out = sys.stderr if left else sys.stdout
        print(f"sweep: {len(outcomes) - len(left)} of {len(outcomes)} runs are finished", file=out)
        for name, why in left.items():
            print(f"  {name}: {why}", file=out)
        if left:
            print("Run the same command again to finish the rest.", file=out, flush=True)
        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(130) from None
        if left and not (isinstance(error, SystemExit) and error.code):
            raise SystemExit(1) from None

    def outcome(self, job: Job) -> tuple[str, str]:
        """Run id, and why it is not finished; "" where it is."""
        try:
            planned = planned_with_lr(dataclasses.replace(job, force=False), self.fingerprinter)
        except BadInput as error:  # no records to tune from, or a missing file
            return f"{job.variant} seed {job.seed} (job {self.jobs.index(job) + 1})", str(error)
        new = written(planned.folder) >= self.began
        if planned.action == "skip":
            return planned.id, "not run again" if job.force and not new else ""
        if planned.action == "refuse":
            return planned.id, f"{planned.refusal}; force=true replaces it"
        if planned.record is None or not new:
            return planned.id, "not run" if planned.action == "run" else "not finished"
        what = ""
        if failure := planned.record.get("error"):
            what = ", " + ": ".join(filter(None, (failure["class"], failure["message"].partition("\n")[0])))
        return planned.id, f"{planned.record['status']}{what} ({planned.folder / 'result.json'})"


def check_new(planned: Plan, *, here: bool) -> str:
    """Raises BadInput if a job that is still to run cannot. Returns a remark, or ""."""
    job = planned.job
    check_writable(job.runs_dir, "runs_dir")
    check_writable(job.cache_dir, "cache_dir")
    return check_fit(job, here=here)


def planned_with_lr(job: Job, fingerprinter: Fingerprinter) -> Plan:
    """The job's plan, after choosing its learning rate if that is `tuned`. Raises BadInput."""
    return plan(with_tuned_lr(job, fingerprinter) if job.lr_chosen == "tuned" else job, fingerprinter)


# -- dry_run=true ------------------------------------------------------------------------------------------------------
def dry_run(jobs: list[Job], fingerprinter: Fingerprinter, *, here: bool = True) -> int:
    """Prints what each job would do and about how long it would take. Loads no weights and writes nothing.

    Returns the exit code, 1 if a job would be refused. Times are scaled from finished runs of the same benchmark,
    model and quantization.
    """
    folders = [*sorted({job.runs_dir for job in jobs}), PUBLISHED]
    finished = [r for r in read_records(folders).records if r["status"] == "done"]
    counts: Counter[str] = Counter()
    listed: set[str] = set()
    total, unknown = 0.0, 0
    for job in jobs:
        name, action, notes = _would(job, fingerprinter, here=here)
        if action != "refuse" and name in listed:
            action, notes = "skip", ["the same run as above"]
        listed.add(name)
        counts[action] += 1
        if action in NEW:
            seconds = estimate(job, finished)
            total, unknown = total + (seconds or 0.0), unknown + (seconds is None)
            notes.append("time unknown" if seconds is None else duration(seconds))
        note = "; ".join(filter(None, notes))
        print(f"{action:8}{name}" + (f"  ({note})" if note else ""))
    summary = ", ".join(f"{counts[a]} to {a}" for a in ("run", "resume", "skip", "refuse") if a in counts)
    summary += f"; {duration(total)} one after another" if total else ""
    summary += f", and {unknown} of unknown length: no similar run has finished" if unknown else ""
    print(f"{len(jobs)} job{'s' * (len(jobs) != 1)}: {summary}", flush=True)
    return int("refuse" in counts)


def _would(job: Job, fingerprinter: Fingerprinter, *, here: bool) -> tuple[str, str, list[str]]:
    """Run id, action and remarks."""
    name = f"{job.variant} seed {job.seed}"
    try:
        planned = planned_with_lr(job, fingerprinter)
        name = planned.id
        remark = check_new(planned, here=here) if planned.action in NEW else ""
    except BadInput as error:
        return name, "refuse", [str(error)]
    return name, planned.action, [planned.refusal if planned.action == "refuse" else planned.reason, remark]


def estimate(job: Job, finished: list[Record]) -> float | None:
    """Seconds: training scaled by steps and batch size, the rest by questions. None if no run is similar.

    Prefers runs of the same variant, then runs on the same kind of device.
    """
    setting, here = (job.benchmark, job.model.name, job.quantization, job.trains), device_name(job.device)
    alike = [r for r in finished if (r["benchmark"], r["model"], r["quantization"], r["steps"] > 0) == setting]
    alike = [r for r in alike if r["variant"] == job.variant] or alike
    alike = [r for r in alike if r["provenance"].get("device") == here] or alike

    def scaled(record: Record) -> float:
        questions = record["test"]["total"] + record["valid"]["total"]
        count = questions if job.eval_limit is None else min(questions, 2 * job.eval_limit)
        training = record["train"]["seconds"] if job.trains else 0.0
        examples = record["steps"] * record["science"]["batch_size"] if job.trains else 1
        answering: float = (record["seconds"] - training) * count / questions
        return answering + training * job.steps * job.batch_size / examples

    return median(map(scaled, alike)) if alike else None
