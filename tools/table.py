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

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from harness.cli.arguments import parse
from harness.config.job import Job
from harness.inputs.fingerprints import Fingerprinter
from harness.records.choose_lr import choose, validation
from harness.records.plan import plan
from harness.records.record import Record
from harness.records.tuning import lr_curve
from tools._pool import unfinished, work
from tools._shared import job_of, variants

SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)  # of the first learning rates, times the default; further ones follow by decades


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
    bases, fingerprinter = [_job(args, v) for v in variants(args.variants, trains_base=True)], Fingerprinter()
    left = lambda: [job for base in bases for job in lacking(base, args.seeds, fingerprinter)]
    work(left, args.workers, fingerprinter, dry=args.plan)


def _job(args: Arguments, variant: str) -> Job:
    words = [*args.words.split(), f"variant={variant}", f"runs_dir={args.runs_dir}", "threads=1", "seed=0"]
    return job_of(words)


def lacking(
    base: Job,
    seeds: int,
    fingerprinter: Fingerprinter,
    scales: Sequence[float] = SCALES,
    worth: Callable[[Record], float | None] | None = None,
) -> list[Job]:
    """The runs of one variant that are known to be lacking: its learning rates first, seeds at the best one last.

    scales: of the first learning rates, times the default, about half a decade apart. worth: what the best rate has
    most of, None for a run without an outcome; validation accuracy unless given.
    """
    if base.lr is None:
        return unfinished({plan(base, fingerprinter).science_hash: base})
    curve = lr_curve(base, fingerprinter, worth or validation)
    tried = {lr: curve[lr][base.seed] for lr in sorted(curve) if base.seed in curve[lr]}
    first = [float(f"{base.lr * scale:.12g}") for scale in scales]
    if len(tried) < len(first):
        return [replace(base, lr=lr) for lr in first if lr not in tried][: len(first) - len(tried)]
    choice = choose([(lr, {base.seed: value}) for lr, value in tried.items()])
    rates = [point.lr for point in choice.points]
    if choice.edge:  # a rate and its next but one are a decade apart
        beyond = rates[1] / 10 if choice.best == 0 else rates[-2] * 10
        return [replace(base, lr=float(f"{beyond:.12g}"))]
    best = rates[choice.best]
    chosen = "given" if worth else "tuned"  # a run with a tuned rate chooses it again, by validation accuracy
    return [replace(base, seed=s, lr=best, lr_chosen=chosen) for s in range(seeds) if s not in curve[best]]


if __name__ == "__main__":
    main(sys.argv[1:])
