"""Runs one part of `make gsm8k-gpu` within the time left and writes its JSON; conf/gsm8k_gpu.yaml lists the parts.

python -m tools.gsm8k_gpu
    part=<name>      empty: print the names in their order
    size=full        or reduced: few steps and questions, small shapes; shows on a CPU that everything runs
    until=<seconds>  Unix time at which the part is stopped; empty: no limit
    gsm8k=<folder>   holds train.jsonl and test.jsonl of openai/grade-school-math; empty: the hub's openai/gsm8k
    device=auto      size=full requires cuda

The Makefile keeps a stamp per finished part, so that the same command continues where it stopped. A training run that
is stopped saves a checkpoint and resumes from it the next time; any other part starts again.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from harness.cli.arguments import parse
from harness.device import usable_device
from harness.errors import refuse
from harness.files import write_text
from harness.measure.provenance import provenance
from harness.paths import CONF, ROOT, under_root
from tools._shared import one_of, record_file
from tools.gsm8k_smoke import source_words

PLAN = CONF / "gsm8k_gpu.yaml"
GRACE = 60  # seconds for a run to save its checkpoint


@dataclass
class Arguments:
    part: str = ""
    size: str = "full"
    until: int | None = None
    gsm8k: str = ""
    device: str = "auto"


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    plan = read_plan()
    one_of("size", args.size, plan["sizes"])
    args.device = usable_device(args.device)
    if args.size == "full" and args.device == "cpu":
        remedy = "SIZE=reduced runs everything on a CPU, with small shapes."
        raise refuse("device", "size=full requires a CUDA device", got="cpu", expected="cuda", remedy=remedy)
    if not args.part:
        print(*part_names())
        return
    one_of("part", args.part, part_names())
    with tempfile.TemporaryDirectory() as scratch:
        command, file = command_of(args, plan, Path(scratch))
        print(f"{args.part}: python {shlex.join(command)}", flush=True)
        start = time.monotonic()
        code = run_within(command, None if args.until is None else args.until - time.time())
        if code is None:
            raise SystemExit(f"{args.part}: out of time. Run the same command again to continue from here.")
        if code:
            raise SystemExit(f"{args.part}: failed with exit code {code}; its message is above.")
        result = result_of(file, args.device)
    seconds = result.get("seconds", time.monotonic() - start)
    part = {"part": args.part, "device": args.device, "seconds": seconds, "result": result}
    out = under_root(plan["sizes"][args.size]["out"])
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / f"{args.part}.json", json.dumps(part, indent=1) + "\n")


def read_plan() -> dict[str, Any]:
    plan: dict[str, Any] = yaml.safe_load(PLAN.read_text())
    return plan


def part_names() -> list[str]:
    """Names of all parts in their order."""
    return ["tests", "bench", *read_plan()["runs"]]


def command_of(args: Arguments, plan: dict[str, Any], scratch: Path) -> tuple[list[str], Path]:
    """Words after `python`, and the file with the result that the command writes. Raises BadInput."""
    size = plan["sizes"][args.size]
    if args.part == "tests":
        return [*size["tests"], f"--junit-xml={scratch / 'tests.xml'}"], scratch / "tests.xml"
    if args.part == "bench":
        return [*size["bench"], f"device={args.device}", f"out={scratch / 'out.json'}"], scratch / "out.json"
    words = [*plan["runs"][args.part], *size["common"], f"device={args.device}"]
    words += source_words(args.gsm8k) if args.size == "full" else []
    return ["train.py", *words], record_file(words)


def run_within(command: list[str], seconds: float | None) -> int | None:
    """Exit code, or None if the time was over first; the command and its children then get SIGTERM."""
    if seconds is not None and seconds <= 0:
        return None
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:  # after Ctrl-C too: it does not reach another session, where two signals would stop a run at once
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def result_of(file: Path, device: str) -> dict[str, Any]:
    """A part's JSON as it is; of pytest's JUnit file, the counts and where they come from."""
    if file.suffix == ".xml":
        suite = next(ElementTree.parse(file).iter("testsuite"))
        counts = {k: int(suite.get(k, 0)) for k in ("tests", "failures", "errors", "skipped")}
        return counts | {"provenance": provenance(device)}
    content: dict[str, Any] = json.loads(file.read_text())
    return content


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the command ends too
    main(sys.argv[1:])
