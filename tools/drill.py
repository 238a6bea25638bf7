"""Long versions of the reliability tests: `make drill`, which writes docs/reliability.md.

python -m tools.drill    all, in half an hour; the dated outcome goes to docs/reliability.md
    only=<name>          one of them: kills, checkpoints, launchers, ray-cluster or slurm; writes nothing
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass

from harness.cli.arguments import parse
from harness.files import write_text
from harness.measure.provenance import provenance
from harness.paths import ROOT
from tools._shared import one_of

PAGE = ROOT / "docs" / "reliability.md"
DRILLS = {  # name → the test module, its mark, and the claim that fails with the tests
    "kills": (
        "cli/test_sweep.py",
        "drill",
        "Each of 20 runs, killed by SIGKILL at two random moments (start, training, saving, evaluating) and started "
        "again, ends with the losses, answers, record and adapter of a run that was not killed.",
    ),
    "checkpoints": (
        "adapters/test_checkpoint.py",
        "drill",
        "None of 10,000 damaged adapter files crashes the loader, and none that changes a tensor is accepted.",
    ),
    "launchers": (
        "cli/test_launchers.py",
        "drill",
        "Under each of the basic, joblib, submitit_local and Ray launchers, a sweep with a failing job, or one that "
        "loses a process to SIGKILL, records and names the failure and exits with code 1. submitit_local and Ray "
        "finish the other jobs. The same command does what is missing.",
    ),
    "ray-cluster": (
        "cli/test_ray_cluster.py",
        "ray",
        "A sweep of 8 jobs on a Ray cluster of two nodes (on one host) loses a worker and then a whole node to "
        "SIGKILL. It still ends with every job done and exit code 0, and with the same bits as an undisturbed sweep.",
    ),
    "slurm": (
        "cli/test_slurm.py",
        "slurm",
        "On a real SLURM (Debian's packages, one node), a preempted job and one that reaches its time limit resume "
        "from their checkpoints, and the sweep waits for them. A failing job is recorded and named. Skipped if SLURM "
        "is not installed.",
    ),
}


@dataclass
class Arguments:
    only: str = ""


def main(argv: list[str]) -> None:
    only = parse(Arguments, argv, __doc__ or "").only
    outcomes = [perform(name) for name in ([one_of("only", only, DRILLS)] if only else DRILLS)]
    if not only:
        write_text(PAGE, "\n\n".join([header(), *outcomes]) + "\n")
        print(f"{PAGE.relative_to(ROOT)} written")
    if any(": FAILED**" in outcome for outcome in outcomes):
        raise SystemExit(1)


def perform(name: str) -> str:
    """Runs a drill's tests. Returns its part of the page: held, FAILED, or not run if every test was skipped."""
    module, mark, claim = DRILLS[name]
    print(f"{name}: {claim}", flush=True)
    words, start = ["-m", "pytest", f"tests/{module}", "-m", mark], time.perf_counter()
    process = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    last = process.stdout.strip().rpartition("\n")[2].strip("= ")  # pytest's summary
    if process.returncode:
        print(process.stdout, flush=True)
    word = "FAILED" if process.returncode else "held" if " passed" in last else "not run"
    seconds = time.perf_counter() - start
    return f"**{name}: {word}** ({seconds:.0f} s). {claim}\n\n    python {' '.join(words)}\n    {last}"


def header() -> str:
    place = provenance("cpu")
    return (
        "# Reliability\n\n"
        "Long versions of the reliability tests, written by `make drill`; `make test` runs about a tenth of each.\n\n"
        f"{time.strftime('%Y-%m-%d')}, commit {str(place['commit'])[:12]}"
        f"{' with changes' if place['dirty'] else ''}, {place['device']}, {os.cpu_count()} cores, "
        f"Python {place['python']}, torch {place['versions']['torch']}."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
