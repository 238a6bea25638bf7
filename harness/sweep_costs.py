"""What a large grid costs beside its training: planning, start-up, skipping, storage; and the arithmetic of the whole.

python -m harness.sweep_costs            rebuild the block of docs/sweeps.md from reports/sweep_costs.json
    measure=true   measure first (ten minutes on two idle cores); writes that file
    check=true     change nothing; exit 1 where the page is not what the file gives
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.columns import grid
from harness.estimate import duration
from harness.gsm8k_report import with_costs
from harness.schema import ROOT
from harness.sections import roles

FILE, PAGE = ROOT / "reports" / "sweep_costs.json", ROOT / "docs" / "sweeps.md"
QUANTIZATIONS, RATES, SEEDS, WORKERS = ("none", "8bit", "4bit"), 5, 5, (1, 8, 64)
SKIPPED = 50  # runs in the measurement of a skip
REPEATS = 3
REFERENCE = ROOT / "reports" / "reference" / "peft_metamathqa_llama-3.2-3b.csv"


@dataclass
class Arguments:
    measure: bool = False
    check: bool = False


def main(argv: list[str]) -> None:
    from harness.arguments import parse

    args = parse(Arguments, argv, __doc__ or "")
    if args.measure:
        FILE.write_text(json.dumps(measured(), indent=1) + "\n")
        print(f"{FILE.relative_to(ROOT)} written")
    text = with_costs(PAGE, section(json.loads(FILE.read_text())))
    if text == PAGE.read_text():
        print("nothing has changed")
    elif args.check:
        raise SystemExit("docs/sweeps.md: not what reports/sweep_costs.json gives. Run python -m harness.sweep_costs.")
    else:
        PAGE.write_text(text)
        print("docs/sweeps.md rebuilt")


# -- measuring ---------------------------------------------------------------------------------------------------------
def measured() -> dict[str, Any]:
    """Seconds and bytes; every command is one that a user types. Planning and skips are medians of REPEATS."""
    from harness.provenance import provenance

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        parts: dict[str, Any] = {"planning": planning(folder), "skipping": skipping(folder)}
    parts["whole_runs"] = whole_runs()
    return parts | {"date": time.strftime("%Y-%m-%d"), "provenance": provenance("cpu")}


def planning(folder: Path) -> dict[str, float]:
    """Composing, validating and listing the full grid, and how many jobs that is."""
    words = ["-m", "benchmark=tiny", f"variant={','.join(variants())}", "experiment=lr_grid"]
    words += [f"quantization={','.join(QUANTIZATIONS)}", f"seed=range({SEEDS})", f"runs_dir={folder / 'none'}"]
    seconds, out = median_of(lambda: train([*words, "dry_run=true"]))
    jobs = re.search(r"^(\d+) jobs: \1 to run", out, re.MULTILINE)
    assert jobs is not None, out
    return {"jobs": int(jobs[1]), "seconds": seconds}


def skipping(folder: Path) -> dict[str, float]:
    """SKIPPED short runs in one process, the same again when all are finished, and both with one run."""
    words = ["-m", "benchmark=tiny", f"variant={roles().baseline}", "device=cpu", "threads=1", "steps=1"]
    words += ["eval.limit=1", f"runs_dir={folder / 'runs'}"]
    began = time.perf_counter()
    train([*words, "seed=0"])
    cold = time.perf_counter() - began
    began = time.perf_counter()
    train([*words, f"seed=range({SKIPPED})"])  # the first is finished
    rest = time.perf_counter() - began
    one, _ = median_of(lambda: train([*words, "seed=0"]))
    every, out = median_of(lambda: train([*words, f"seed=range({SKIPPED})"]))
    assert out.count("finished already, skipped") == SKIPPED, out
    (folder_of_run, *_) = (folder / "runs").iterdir()
    return {
        "runs": SKIPPED,
        "per_skip": (every - one) / (SKIPPED - 1),
        "command_with_one_skip": one,
        "first_run": cold,  # process start, imports, model, base hash, one step, two answers
        "further_run": (rest - one) / (SKIPPED - 1),
        "bytes": sum(p.stat().st_size for p in folder_of_run.rglob("*")),
    }


def whole_runs() -> dict[str, float]:
    """Seconds of a whole run of the report's baseline, by quantization; one core."""
    found = {}
    for quantization in QUANTIZATIONS:
        with tempfile.TemporaryDirectory() as runs:
            words = [f"variant={roles().baseline}", "threads=1", "device=cpu", f"runs_dir={runs}"]
            train(["benchmark=tiny", f"quantization={quantization}", *words])
            (record,) = (json.loads(p.read_text()) for p in Path(runs).glob("*/result.json"))
        found[quantization] = record["seconds"]
    return found


def train(words: list[str]) -> str:
    """Standard output of a command that must end well."""
    done = subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"train.py {' '.join(words)}: failed.\n{done.stderr}")
    return done.stdout


def median_of(command: Any) -> tuple[float, str]:
    seconds, out = [], ""
    for _ in range(REPEATS):
        began = time.perf_counter()
        out = command()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), out


# -- the grid ----------------------------------------------------------------------------------------------------------
def variants() -> list[str]:
    """Those that every axis of the grid applies to, and whose runs have a known length: published adapters."""
    import adapters as ad
    from adapters._registry import variant_has_sites

    return [name for name, kind in ad.VARIANTS.items() if variant_has_sites(kind) and name in published_seconds()]


def published_seconds() -> dict[str, float]:
    """Median seconds of a published run, by variant."""
    from harness.estimate import finished_runs
    from harness.runs import PUBLISHED

    found: dict[str, list[float]] = {}
    for record in finished_runs([PUBLISHED]):
        found.setdefault(record["variant"], []).append(record["seconds"])
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def run_seconds(m: dict[str, Any], known: dict[str, float]) -> list[float]:
    """Every run of the grid: the baseline's measured time, by how much longer the variant's published runs took."""
    longer = [known[name] / known[roles().baseline] for name in variants()]
    return [a * b for a in longer for b in m["whole_runs"].values()] * (RATES * SEEDS)


@dataclass(frozen=True)
class Bill:
    """Seconds of the whole grid on some workers; all but `runs` is what the runs do not need."""

    runs: float  # evenly spread
    start: float  # processes
    plan: float  # before the first job and after the last, in one process
    tail: float  # at most: workers that wait for the last run

    @property
    def whole(self) -> float:
        return self.runs + self.start + self.plan + self.tail

    def row(self, workers: int) -> list[str]:
        parts = [duration(s).removeprefix("about ") for s in (self.runs, self.start, self.plan, self.tail, self.whole)]
        return [str(workers), *parts, f"{1 - self.runs / self.whole:.1%}"]


def bill(runs: list[float], m: dict[str, Any], workers: int, *, per_job: bool) -> Bill:
    """per_job: a process for every job, as SLURM starts them, in place of one for every worker."""
    start = m["skipping"]["first_run"] - m["skipping"]["further_run"]
    processes = len(runs) / workers if per_job else 1
    plan = 2 * len(runs) * m["planning"]["seconds"] / m["planning"]["jobs"]
    return Bill(sum(runs) / workers, start * processes, plan, max(runs) if workers > 1 else 0.0)


# -- the page ----------------------------------------------------------------------------------------------------------
COLUMNS = ["workers", "runs", "starting processes", "planning", "waiting for the last run, at most", "whole"]
COLUMNS.append("not spent on runs")


def section(m: dict[str, Any]) -> str:
    """The block of docs/sweeps.md: what was measured, the grid's total, and its time on more and more workers."""
    of, skip = m["provenance"], m["skipping"]
    here = run_seconds(m, published_seconds())
    theirs, source = reference_seconds()
    lines = [
        f"Measured on {m['date']}, {of['device']}, one thread a run, by `python -m harness.sweep_costs measure=true` "
        f"(planning and skipping: medians of {REPEATS}; the rest once):",
        "\n".join(grid(["what", "measured"], measurements(m))),
        f"The grid: {len(variants())} variants × {RATES} learning rates × {len(QUANTIZATIONS)} quantizations × {SEEDS} "
        f"seeds = {len(here):,} runs, of {skip['bytes'] / 1e3:.0f} kB each without checkpoints and long answers.",
        f"**`benchmark=tiny`, a worker being one core.** A run takes the baseline's time at its quantization (above), "
        f"times what the variant's published runs took over the baseline's: {min(here):.0f} to {max(here):.0f} s.",
        "\n".join(grid(COLUMNS, [bill(here, m, w, per_job=False).row(w) for w in WORKERS])),
        f"**`benchmark=gsm8k`, a worker being one GPU. Nothing of ours was measured on one**; for scale a run is put "
        f"at {theirs:,.0f} s, what {source} reports for training alone, with another model, on its own GPU:",
        "\n".join(grid(COLUMNS, [bill([theirs] * len(here), m, w, per_job=True).row(w) for w in WORKERS])),
        bottleneck(here, [theirs] * len(here), m),
    ]
    return "\n\n".join(lines)


def measurements(m: dict[str, Any]) -> list[list[str]]:
    plan, skip = m["planning"], m["skipping"]
    per_job = 1000 * plan["seconds"] / plan["jobs"]
    rows = [
        [f"planning {plan['jobs']:,} jobs (`dry_run=true`)", f"{plan['seconds']:.1f} s, {per_job:.1f} ms a job"],
        ["a finished run skipped in a sweep", f"{skip['per_skip']:.3f} s"],
        ["the whole command for one that is finished", f"{skip['command_with_one_skip']:.1f} s"],
        ["process start, imports, loading the model", f"{skip['first_run'] - skip['further_run']:.1f} s"],
        ["a further run of the same process, with one step and two answers", f"{skip['further_run']:.1f} s"],
    ]
    return rows + [[f"a whole run, base {name}", f"{s:.0f} s"] for name, s in m["whole_runs"].items()]


def reference_seconds() -> tuple[float, str]:
    """What others published of one run of the same steps and batches, and who."""
    table, name = pd.read_csv(REFERENCE), f"{roles().baseline}--llama-3.2-3B-rank32"
    row = table[table["experiment"] == name].iloc[0]
    return float(row["train_seconds"]), f"PEFT's method_comparison (`{name}`)"


def bottleneck(here: list[float], theirs: list[float], m: dict[str, Any]) -> str:
    """What is largest beside the runs themselves on the most workers."""
    texts = []
    for name, runs, per_job in (("tiny", here, False), ("gsm8k", theirs, True)):
        b = bill(runs, m, WORKERS[-1], per_job=per_job)
        parts = {"starting processes": b.start, "planning": b.plan, "waiting for the last run": b.tail}
        most = max(parts, key=lambda k: parts[k])
        texts.append(f"`{name}`: {most}, {parts[most] / b.whole:.1%} of the whole")
    return f"The largest part beside the runs, on {WORKERS[-1]} workers: {'; '.join(texts)}."


if __name__ == "__main__":
    main(sys.argv[1:])
