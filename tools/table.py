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
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace

from tqdm import tqdm

from harness.cli.arguments import parse
from harness.cli.quiet import quiet
from harness.config.job import Job
from harness.inputs.fingerprints import Fingerprinter
from harness.paths import PUBLISHED
from harness.records.choose_lr import choose
from harness.records.plan import plan
from harness.records.store import read_records
from harness.records.tuning import lr_curve
from harness.run import run
from tools._shared import job_of, variants

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
    common = [*args.words.split(), f"runs_dir={args.runs_dir}", "threads=1", "seed=0"]
    bases = [job_of([*common, f"variant={name}"]) for name in variants(args.variants, trains_base=True)]
    fingerprinter = Fingerprinter()
    with ProcessPoolExecutor(args.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        # A variant's results decide what it still lacks, so all that is known to be lacking runs, again and again.
        while left := [job for base in bases for job in lacking(base, args.seeds, fingerprinter)]:
            if args.plan:
                print(*map(_name, left), sep="\n")
                return
            for name in tqdm(pool.map(_run, left), total=len(left), desc="runs known to be lacking"):
                tqdm.write(name)


def _name(job: Job) -> str:
    return f"{job.variant} lr={job.lr:g} seed={job.seed}" if job.lr is not None else job.variant


def _run(job: Job) -> str:
    """One run in a worker. Returns its name; what it raises ends the table, and the same command continues it."""
    quiet()
    run(job)
    return _name(job)


def lacking(base: Job, seeds: int, fingerprinter: Fingerprinter) -> list[Job]:
    """The runs of one variant that are known to be lacking: its learning rates first, seeds at the best one last."""
    if base.lr is None:
        science = plan(base, fingerprinter).science_hash
        records = read_records([base.runs_dir, PUBLISHED]).records
        return [] if any(r["science_hash"] == science and r["status"] == "done" for r in records) else [base]
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
