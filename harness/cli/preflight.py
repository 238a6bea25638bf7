"""Before Hydra takes over: every job of the command line is composed and validated, and errors are said in one line."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from hydra._internal.utils import get_args_parser

from harness.config.compose import compositions
from harness.paths import ROOT


def expand_home(argv: list[str]) -> list[str]:
    """`key=~/folder` with the home folder in place of `~`, which neither the shell nor Hydra's grammar takes there."""
    return [re.sub(r"=~(?=/|$)", lambda _: f"={Path.home()}", word, count=1) for word in argv]


def preflight(argv: list[str]) -> AbstractContextManager[object]:
    """Validates all jobs that `argv` asks for, before the first one starts; enter what it returns around Hydra's main.

    Raises SystemExit with one line for the first thing that is wrong, and SystemExit(0) after a dry run. Does nothing
    for --help, --cfg and the like, nor for sweepers whose jobs are not known beforehand.
    """
    args = get_args_parser().parse_args(argv)
    if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
        return nullcontext()
    jobs = []
    for cfg in compositions(args.overrides, multirun=args.multirun):
        from harness.config.validate import job_from

        with _quiet():  # the job itself will say its warnings again
            jobs.append(job_from(cfg))
    from harness.cli.quiet import quiet
    from harness.cli.sweep import Sweep, dry_run
    from harness.inputs.fingerprints import Fingerprinter
    from harness.records.plan import plan

    quiet()
    fingerprinter = Fingerprinter()
    if jobs and jobs[0].dry_run:
        dry_run(jobs, fingerprinter)
        raise SystemExit(0)
    if args.multirun:
        from harness.cli.launcher_check import check_launcher

        for job in jobs:  # a single run refuses missing models and data files by itself
            if job.lr_chosen != "tuned":
                plan(job, fingerprinter)
        check_launcher(args.overrides, jobs)
    # Processes that launchers start must find the repository, wherever the command was typed.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return Sweep(jobs, fingerprinter) if args.multirun and jobs else nullcontext()


@contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
