"""Runs the experiments behind docs/findings.md, as conf/study.yaml lists them: `make study`.

python -m tools.study
    experiment=all   or <name>,<name> of conf/study.yaml
    runs_dir=runs
    workers=2        processes, one thread each
    plan=false       print what is left and stop

Local and published records decide what is left, so the same command resumes. The benchmark is the embedded one.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from harness.cli.arguments import parse
from harness.config.compose import compositions
from harness.config.job import Job
from harness.config.schema import register
from harness.config.validate import job_from
from harness.inputs.fingerprints import Fingerprinter
from harness.paths import CONF
from harness.records.plan import plan
from harness.records.record import Record
from tools._pool import unfinished, work
from tools._shared import job_of, one_of
from tools.table import lacking


@dataclass
class Arguments:
    experiment: list[str] = field(default_factory=lambda: ["all"])
    runs_dir: str = "runs"
    workers: int = 2
    plan: bool = False


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    fingerprinter = Fingerprinter()
    work(runs_left(args.experiment, args.runs_dir, fingerprinter), args.workers, fingerprinter, dry=args.plan)


def experiments() -> dict[str, Any]:
    """conf/study.yaml."""
    loaded: dict[str, Any] = yaml.safe_load((CONF / "study.yaml").read_text())
    return loaded


def runs_left(names: list[str], runs_dir: str, fingerprinter: Fingerprinter) -> Callable[[], list[Job]]:
    """A function that returns what these experiments lack, no run twice, from the records of the moment of its call."""
    known = experiments()
    chosen = [one_of("experiment", name, known) for name in (known if names == ["all"] else names)]
    fixed = by_science([job for name in chosen for job in jobs_of(name, runs_dir)], fingerprinter)
    tuned = [(_bases(how, runs_dir), how) for name in chosen if (how := known[name].get("tuned"))]

    def left() -> list[Job]:
        more = [
            job
            for bases, how in tuned
            for base in bases
            for job in lacking(base, how["seeds"], fingerprinter, how["scales"], by_response_loss)
        ]
        return unfinished(fixed) + list(by_science(more, fingerprinter).values())

    return left


def jobs_of(experiment: str, runs_dir: str) -> list[Job]:
    """The jobs of an experiment's sweeps, as `train.py -m` makes them."""
    register()
    lines = experiments()[one_of("experiment", experiment, experiments())].get("sweeps", [])
    return [
        job_from(cfg) for words in lines for cfg in compositions([*words.split(), *_common(runs_dir)], multirun=True)
    ]


def _common(runs_dir: str) -> list[str]:
    return ["benchmark=tiny", "threads=1", f"runs_dir={runs_dir}"]


def by_science(jobs: list[Job], fingerprinter: Fingerprinter) -> dict[str, Job]:
    """Science hash → job; of jobs that would give the same result the first one."""
    out: dict[str, Job] = {}
    for job in jobs:
        out.setdefault(plan(job, fingerprinter).science_hash, job)
    return out


def _bases(how: dict[str, Any], runs_dir: str) -> list[Job]:
    """A job per variant, at its default learning rate and seed 0."""
    return [job_of([*_common(runs_dir), *how["words"].split(), f"variant={v}", "seed=0"]) for v in how["variants"]]


def by_response_loss(record: Record) -> float | None:
    """For `choose`: a low response loss on validation is better, a diverged run worst. None without an outcome."""
    if record["status"] != "done":
        return -math.inf if record["status"] == "diverged" else None
    return -record["valid"]["response_loss"] if "response_loss" in record["valid"] else None


if __name__ == "__main__":
    main(sys.argv[1:])
