"""The whole GSM8K path on a real model, killed and resumed, within minutes on a CPU: `make gsm8k-smoke`.

python -m tools.gsm8k_smoke variants=<name>,<name>
    gsm8k=<folder>   holds train.jsonl and test.jsonl of openai/grade-school-math; empty: the hub's openai/gsm8k
    threads=2        CPU threads; more threads than free cores slow training down several times
    out=reports/gsm8k_smoke   write <out>.json and the runs' records (<out>/<id>/)

Each variant is `python train.py experiment=gsm8k_smoke variant=<name>`, killed by SIGKILL while training, resumed,
killed while evaluating, resumed, and started once more when finished; then eval_gsm8k.py answers the questions again.
A step lost or repeated, a question answered twice or scored differently, or a loss that does not fall is an error. The
figures show that the path works: the runs are far too short to say anything about accuracy.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from harness.cli.arguments import parse
from harness.cli.quiet import quiet
from harness.errors import refuse
from harness.paths import ROOT, under_root
from harness.report.publish import KEPT
from tools._shared import record_file, variants

RUNS = ".cache/gsm8k_smoke"  # emptied at the start


@dataclass
class Arguments:
    variants: list[str]
    gsm8k: str = ""
    threads: int | None = None
    out: str = "reports/gsm8k_smoke"


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    words = ["experiment=gsm8k_smoke", "device=cpu", f"runs_dir={RUNS}", *source_words(args.gsm8k)]
    words += [] if args.threads is None else [f"threads={args.threads}"]
    shutil.rmtree(ROOT / RUNS, ignore_errors=True)
    start = time.perf_counter()
    quiet()
    runs = [smoke(variant, words) for variant in variants(args.variants)]
    write(runs, under_root(args.out), time.perf_counter() - start)
    print(f"{len(runs)} runs, killed twice each: nothing lost, nothing repeated, the loss fell")


def source_words(folder: str) -> list[str]:
    """Overrides for local files; none if `folder` is empty. Raises BadInput for a missing file."""
    if not folder:
        return []
    for name in ("train.jsonl", "test.jsonl"):
        if not (under_root(folder) / name).is_file():
            remedy = "Fetch it from github.com/openai/grade-school-math, or leave gsm8k= empty for the hub."
            raise refuse("gsm8k", f"no {name} in this folder", got=folder, remedy=remedy)
    train, test = f"{folder}/train.jsonl", f"{folder}/test.jsonl"
    return [f"data.train.path={train}", f"data.questions.path={train}", f"data.test.path={test}"]


def smoke(variant: str, words: list[str]) -> dict[str, Any]:
    """One variant's run through two kills; returns its id and where it was killed. Raises SystemExit."""
    words = ["train.py", f"variant={variant}", *words]
    file = record_file(words[1:])
    folder = file.parent
    metrics, predictions = folder / "metrics.jsonl", folder / "predictions.jsonl"
    checkpoint = folder / "checkpoint" / "state.safetensors"
    kill(words, "training", lambda: checkpoint.exists() and _lines(metrics) > _steps_saved(checkpoint))
    kills: dict[str, Any] = {"training": {"steps_done": _lines(metrics), "steps_saved": _steps_saved(checkpoint)}}
    kill(words, "evaluation", lambda: _lines(predictions) > 0)
    kills["evaluation"] = {"answered": _lines(predictions)}
    _run(words)
    record, written = json.loads(file.read_text()), file.stat().st_mtime_ns
    _check(record["status"] == "done", f"{variant}: {record['status']}")
    nothing_lost(record, metrics, predictions)
    _run(words)
    _check(file.stat().st_mtime_ns == written, f"{variant}: a finished run was not skipped")
    output = _run(["eval_gsm8k.py", f"run={folder.name}", f"runs_dir={RUNS}", "device=cpu"])
    _check("the same questions are right" in output, f"{variant}: re-evaluation finds other questions right")
    return {"run": folder.name, "kills": kills}


def nothing_lost(record: dict[str, Any], metrics: Path, predictions: Path) -> None:
    """Every step and every question once, a healthy adapter, and a loss that fell. Raises SystemExit otherwise."""
    name, health, train = record["variant"], record["health"], record["train"]
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    _check(steps == list(range(1, record["steps"] + 1)), f"{name}: steps in metrics.jsonl are {steps}")
    answered = sorted((p["split"], p["index"]) for p in map(json.loads, predictions.read_text().splitlines()))
    expected = [(split, n) for split in ("test", "valid") for n in range(record[split]["total"])]
    _check(answered == expected, f"{name}: questions answered are {answered}")
    fell = train["loss_last"] < train["loss_first"]
    _check(fell, f"{name}: the loss did not fall, {train['loss_first']:.4f} -> {train['loss_last']:.4f}")
    _check(bool(health["moved"] and health["no_base_gradient"] and health["base_unchanged"]), f"{name}: {health}")


def kill(words: list[str], phase: str, ripe: Callable[[], bool]) -> None:
    """Starts a program and sends SIGKILL as soon as `ripe()`. Raises SystemExit if it ends before that."""
    print(f"$ python {' '.join(words)}    (will be killed in {phase})", flush=True)
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT)
    try:
        while not ripe():
            _check(process.poll() is None, f"the run ended with code {process.returncode} before its {phase}")
            time.sleep(0.2)
    finally:
        process.kill()
        process.wait()


def _run(words: list[str]) -> str:
    """Output of a program of this repository. Raises SystemExit if it fails."""
    print(f"$ python {' '.join(words)}", flush=True)
    process = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    print(process.stdout, end="", flush=True)
    _check(process.returncode == 0, f"exit code {process.returncode} from python {' '.join(words)}")
    return process.stdout


def _lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def _steps_saved(checkpoint: Path) -> int:
    with safe_open(checkpoint, framework="pt") as file:
        return int(file.metadata()["step"])


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SystemExit(f"gsm8k_smoke: {otherwise}")


def write(runs: list[dict[str, Any]], out: Path, seconds: float) -> None:
    """`out`.json with the kills and seconds, and `out`/<id>/ with the small files of each run."""
    shutil.rmtree(out, ignore_errors=True)
    for run in runs:
        (out / run["run"]).mkdir(parents=True)
        for name in KEPT:
            shutil.copyfile(ROOT / RUNS / run["run"] / name, out / run["run"] / name)
    out.with_suffix(".json").write_text(json.dumps({"seconds": seconds, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
