"""Fills the results table: `make table`. Five learning rates per variant on validation, then seeds at the best one.

python -m tools.table
    variants=all           or names; the untrained floor runs once
    seeds=5                at the chosen learning rate; 1: the learning rates only
    runs_dir=runs
    workers=2              processes, one thread each
    plan=false             print what is left and stop
    words="benchmark=tiny" what every run has in common

The learning rates are half a decade apart around each variant's default, at seed 0. While the best lies at an edge of
its grid, the grid grows there. Records decide what is left, so the same command resumes.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from harness.cli.arguments import parse

if TYPE_CHECKING:
    from harness.config.job import Job

SCALES = (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)  # times the default
FIRST = slice(4, 9)  # the five that everyone gets


@dataclass
class Arguments:
    variants: str = "all"
    seeds: int = 5
    runs_dir: str = "runs"
    workers: int = 2
    plan: bool = False
    words: str = "benchmark=tiny"


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    import adapters as ad
    from harness.records.progress import duration
    from tools._shared import one_of

    names = [one_of("variants", v, ad.VARIANTS) for v in args.variants.split(",")] if args.variants != "all" else None
    bases = {v: _job(args, v) for v in names or ad.VARIANTS}
    if args.plan:
        for job in [job for base in bases.values() for job in _lacking(base, args.seeds)]:
            print(_name(job))
        return
    running: dict[Future[float], Job] = {}
    took: list[float] = []
    with ProcessPoolExecutor(args.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        while True:
            left = [job for base in bases.values() for job in _lacking(base, args.seeds)]
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


def _lacking(base: Job, seeds: int) -> list[Job]:
    """The runs of one variant that are known to be lacking: its grid first, what follows from the grid later."""
    from harness.inputs.fingerprints import Fingerprinter
    from harness.records.plan import plan
    from harness.records.tuning import lr_curve

    if base.lr is None:
        return [base] if plan(base).action in ("run", "resume") else []
    curve = lr_curve(base, Fingerprinter())
    grid = [float(f"{base.lr * scale:.12g}") for scale in SCALES]
    valid = {lr: curve[lr][0] for lr in grid if 0 in curve.get(lr, {})}
    if lacking := [lr for lr in grid[FIRST] if lr not in valid]:
        return [replace(base, lr=lr) for lr in lacking]
    best = max(valid, key=lambda lr: (valid[lr], -lr))
    place = grid.index(best)
    if beyond := [lr for lr in grid[max(place - 1, 0) : place + 2] if lr not in valid]:
        return [replace(base, lr=lr) for lr in beyond]
    return [replace(base, seed=s, lr_chosen="tuned") for s in range(seeds) if s not in curve[best]]


if __name__ == "__main__":
    main(sys.argv[1:])
