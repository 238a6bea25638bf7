"""Fills the results table: `make table`. Five learning rates per variant on validation, then seeds at the best one.

python -m tools.table
    variants=all           or <name>,<name>; the untrained floor runs once
    seeds=5                at the chosen learning rate; 1: the learning rates only
    runs_dir=runs
    workers=2              processes, one thread each
    plan=false             print what is left and stop
    words="benchmark=tiny" what every run has in common

The learning rates are half a decade apart around each variant's default, at seed 0. While the best lies at an edge of
those tried, one more is tried beyond it. Local and published records decide what is left, so the same command resumes.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING

from harness.cli.arguments import parse

if TYPE_CHECKING:
    from harness.config.job import Job
    from harness.inputs.fingerprints import Fingerprinter

SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)  # of the first learning rates, times the default; further ones go on by decades


@dataclass
class Arguments:
    variants: list[str] = field(default_factory=lambda: ["all"])
    seeds: int = 5
    runs_dir: str = "runs"
    workers: int = 2
    plan: bool = False
    words: str = "benchmark=tiny"


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    from harness.inputs.fingerprints import Fingerprinter
    from harness.records.progress import duration
    from tools._shared import variants

    bases, fingerprinter = [_job(args, v) for v in variants(args.variants, trains_base=True)], Fingerprinter()
    if args.plan:
        for job in [job for base in bases for job in lacking(base, args.seeds, fingerprinter)]:
            print(_name(job))
        return
    running: dict[Future[float], Job] = {}
    took: list[float] = []
    with ProcessPoolExecutor(args.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        while True:
            left = [job for base in bases for job in lacking(base, args.seeds, fingerprinter)]
            waiting = [job for job in left if job not in running.values()]
            while waiting and len(running) < args.workers:
                job = waiting.pop(0)
                running[pool.submit(_run, job)] = job
                print(f"{_name(job)} started; at least {len(left)} runs left", flush=True)
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                took.append(future.result())
                about = duration(median(took) * len(left) / args.workers)
                print(f"{_name(job)} took {took[-1]:.0f} s; {about} left for what is known to be lacking", flush=True)


def _job(args: Arguments, variant: str) -> Job:
    from tools._shared import job_of

    words = [*args.words.split(), f"variant={variant}", f"runs_dir={args.runs_dir}", "threads=1", "seed=0"]
    return job_of(words)


def _name(job: Job) -> str:
    return f"{job.variant} lr={job.lr:g} seed={job.seed}" if job.lr is not None else job.variant


def _run(job: Job) -> float:
    """One run in a worker. Returns seconds; what it raises ends the table, and the same command continues it."""
    from harness.cli.quiet import quiet
    from harness.run import run

    quiet()
    start = time.monotonic()
    run(job)
    return time.monotonic() - start


def lacking(base: Job, seeds: int, fingerprinter: Fingerprinter) -> list[Job]:
    """The runs of one variant that are known to be lacking: its learning rates first, seeds at the best one last."""
    from harness.paths import PUBLISHED
    from harness.records.choose_lr import choose
    from harness.records.plan import plan
    from harness.records.store import read_records
    from harness.records.tuning import lr_curve

    if base.lr is None:
        wanted = plan(base, fingerprinter).science_hash
        records = read_records([base.runs_dir, PUBLISHED]).records
        return [] if any(r["science_hash"] == wanted and r["status"] == "done" for r in records) else [base]
    curve = lr_curve(base, fingerprinter)
    tried = {lr: curve[lr][base.seed] for lr in sorted(curve) if base.seed in curve[lr]}
    first = [float(f"{base.lr * scale:.12g}") for scale in SCALES]
    if len(tried) < len(first):
        return [replace(base, lr=lr) for lr in first if lr not in tried][: len(first) - len(tried)]
    choice = choose([(lr, {base.seed: valid}) for lr, valid in tried.items()])
    rates = [point.lr for point in choice.points]
    if choice.edge:  # a rate and its next but one are a decade apart
        beyond = rates[1] / 10 if choice.best == 0 else rates[-2] * 10
        return [replace(base, lr=float(f"{beyond:.12g}"))]
    best = rates[choice.best]
    return [replace(base, seed=s, lr_chosen="tuned") for s in range(seeds) if s not in curve[best]]


if __name__ == "__main__":
    main(sys.argv[1:])
