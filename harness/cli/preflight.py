"""Composes and validates every job of the command line before Hydra starts; an error is one line."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, nullcontext

from harness.cli.words import arguments
from harness.config.compose import compositions
from harness.paths import ROOT


def preflight(argv: list[str]) -> AbstractContextManager[object]:
    """Validates all jobs of `argv` before the first one starts. Run Hydra's main inside the context it returns.

    Raises SystemExit with one line for the first error, and after a dry run. Does nothing for --help and --cfg,
    or for sweepers that choose jobs one by one. A single run checks its files itself.
    """
    args = arguments(argv)
    if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
        return nullcontext()
    jobs = []
    logging.disable(logging.WARNING)  # each job repeats its warnings
    try:
        for cfg in compositions(args.overrides, multirun=args.multirun):
            from harness.config.validate import job_from

            jobs.append(job_from(cfg))
    finally:
        logging.disable(logging.NOTSET)
    from harness.cli.launcher_check import check_launcher
    from harness.cli.quiet import quiet
    from harness.cli.sweep import Sweep, dry_run
    from harness.inputs.fingerprints import Fingerprinter
    from harness.records.lock import check_writable

    quiet()
    fingerprinter = Fingerprinter()
    here = check_launcher(args.overrides, jobs) if args.multirun else True
    if jobs and jobs[0].dry_run:
        raise SystemExit(dry_run(jobs, fingerprinter, here=here))
    for job in jobs[:1]:
        check_writable(job.cache_dir, "cache_dir")  # before Hydra writes there
        os.environ["HOOKBENCH_HYDRA"] = str(job.cache_dir / "hydra")
    # Processes started by launchers must find the repository, whatever the working directory.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return Sweep(jobs, fingerprinter, here=here) if args.multirun and jobs else nullcontext()
