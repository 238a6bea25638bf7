"""The long drills, ten times and more what `make test` does of each; `make drill` writes docs/reliability.md.

python -m tools.drill               all; the dated outcome goes to docs/reliability.md
    only=kills                        one of them, to the terminal only
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass

from harness.paths import ROOT

PAGE = ROOT / "docs" / "reliability.md"


@dataclass(frozen=True)
class Drill:
    """A command that fails where the claim does not hold."""

    name: str
    claim: str
    words: list[str]
    environment: dict[str, str]


def pytest(*words: str) -> list[str]:
    return ["-m", "pytest", *words]


DRILLS = [
    Drill(
        "kills",
        "A run killed twice with SIGKILL at random moments (start, training, saving, evaluating) and started again "
        "ends with the losses, answers, record and adapter of one that was not killed: 20 runs.",
        pytest("tests/cli/test_sweep.py", "-m", "drill"),
        {},
    ),
    Drill(
        "checkpoints",
        "Of 10,000 damaged adapter files none crashes the loader, and none changes a tensor and is accepted.",
        pytest("tests/test_checkpoint.py", "-k", "mutated_files"),
        {"FUZZ_FILES": "10000"},
    ),
    Drill(
        "launchers",
        "A sweep with a failing job, and one that loses a process to SIGKILL, under each of the basic, joblib, "
        "submitit_local and Ray launchers: the failure is recorded and named, the exit code is 1, submitit_local and "
        "Ray finish the other jobs, and the same command does what is missing.",
        pytest("tests/cli/test_launchers.py", "-m", "drill"),
        {},
    ),
    Drill(
        "ray-cluster",
        "A sweep of 8 jobs on a Ray cluster of two nodes (on one host) that loses a worker and then a whole node to "
        "SIGKILL ends by itself with every job done and exit code 0, with the bits of a sweep that lost nothing.",
        pytest("tests/cli/test_ray_cluster.py", "-m", "ray"),
        {},
    ),
    Drill(
        "slurm",
        "The SLURM launcher on a real SLURM (Debian's packages, one node): a preempted job and one whose time is up go "
        "on from their checkpoints and the sweep waits for them; a failing job is recorded and named. Skipped where "
        "SLURM is not installed.",
        pytest("tests/cli/test_slurm.py", "-m", "slurm"),
        {},
    ),
]


@dataclass(frozen=True)
class Outcome:
    drill: Drill
    word: str  # held, FAILED, or not run: all of it was skipped
    seconds: float
    last: str  # line that it printed


@dataclass
class Arguments:
    only: str = ""


def main(argv: list[str]) -> None:
    from harness.cli.arguments import parse
    from harness.errors import refuse

    only = parse(Arguments, argv, __doc__ or "").only
    wanted = [d for d in DRILLS if only in ("", d.name)]
    if not wanted:
        raise refuse("only", "no such drill", got=only, expected=f"one of {', '.join(d.name for d in DRILLS)}")
    rows = [perform(drill) for drill in wanted]
    if not only:
        PAGE.write_text(page(rows))
        print(f"{PAGE.relative_to(ROOT)} written")
    if any(row.word == "FAILED" for row in rows):
        raise SystemExit(1)


def perform(drill: Drill) -> Outcome:
    print(f"{drill.name}: {drill.claim}", flush=True)
    start = time.perf_counter()
    words = [sys.executable, *drill.words]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | drill.environment, stdout=subprocess.PIPE, text=True)
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        print(done.stdout, flush=True)
    last = lines[-1].strip("= ") if lines else ""
    word = "FAILED" if done.returncode else "held" if " passed" in last else "not run"
    return Outcome(drill, word, time.perf_counter() - start, last)


def page(rows: list[Outcome]) -> str:
    """docs/reliability.md from what has just been run."""
    from harness.measure.provenance import provenance

    of = provenance("cpu")
    parts = [
        "# Reliability",
        "Written by `make drill`, which runs what `make test` runs a tenth of, and more.",
        f"{time.strftime('%Y-%m-%d')}, commit {str(of['commit'])[:12]}{' with changes' if of['dirty'] else ''}, "
        f"{of['device']}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {of['versions']['torch']}.",
    ]
    for row in rows:
        settings = "".join(f"{k}={v} " for k, v in row.drill.environment.items())
        command = f"{settings}python {' '.join(row.drill.words)}"
        parts.append(f"**{row.drill.name}: {row.word}** ({row.seconds:.0f} s). {row.drill.claim}")
        parts.append(f"    {command}\n    {row.last}")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
