"""Everything that wants a CUDA device, in one resumable go: `make gsm8k-gpu`; its parts are in conf/gsm8k_gpu.yaml.

python -m tools.gsm8k_gpu
    size=full        or reduced: a few steps, questions and small shapes, to see on a CPU that it runs
    minutes=28       stop after so many; the same command goes on where it stopped. Empty: no limit
    gsm8k=<folder>   holds train.jsonl and test.jsonl of openai/grade-school-math; empty: the hub's openai/gsm8k
    device=auto      cuda is refused where there is none; so is size=full on a CPU
    out=reports/gsm8k_gpu    one JSON per finished part, and the runs' records
    runs_dir=runs    where the runs are

The parts are the GPU tests, the speed of every variant beside PEFT's, peak memory and step time of every variant on
Qwen3-0.6B's shapes beside PEFT's, and SmolLM2-135M's runs on GSM8K. A part whose code and words are what they were when
it finished is skipped. At the end of the time a training run is asked to stop, and goes on from its checkpoint the next
time; any other part begins anew.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from harness.paths import CONF, ROOT, under_root

PLAN = CONF / "gsm8k_gpu.yaml"
GRACE = 60  # seconds for a run to write its checkpoint
# What a part's figures depend on, beside the adapters: change it, and the part is done again.
SOURCES = {
    "tests": ("tests/test_gpu.py", "harness/training.py", "harness/loss.py", "harness/models.py"),
    "bench": ("harness/bench.py",),
    "memory": ("harness/bench_memory.py", "harness/bench.py", "harness/loss.py"),
}


@dataclass
class Arguments:
    size: str = "full"
    minutes: int | None = None
    gsm8k: str = ""
    device: str = "auto"
    out: str = "reports/gsm8k_gpu"
    runs_dir: str = "runs"


@dataclass
class Part:
    """name: of its JSON. command: what to run; it writes `result` itself, a JSON or, of tests, a JUnit file."""

    name: str
    command: list[str]
    result: Path
    device: str
    sources: tuple[str, ...] = ()

    def key(self) -> str:
        """Changes with the command and with the code behind its figures."""
        files = [ROOT / f for f in self.sources] + sorted((ROOT / "adapters").glob("*.py"))
        digest = hashlib.sha256("\0".join(self.command).encode())
        for file in files:
            digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest()[:16]


def main(argv: list[str]) -> None:
    from harness.cli.arguments import parse

    args = parse(Arguments, argv, __doc__ or "")
    out = under_root(args.out)
    end = None if args.minutes is None else time.monotonic() + 60 * args.minutes
    todo = list(parts(args, out))
    out.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(todo, start=1):
        name = f"{number}/{len(todo)} {part.name}"
        file = out / f"{part.name}.json"
        if finished(file, part.key()):
            print(f"{name}: done already", flush=True)
            continue
        left = None if end is None else end - time.monotonic()
        print(f"{name}: python {' '.join(part.command)}", flush=True)
        start, code = time.monotonic(), None
        if left is None or left > 0:
            code = _run(part.command, left)
        if code is None:
            raise SystemExit(f"the time is over at {name}; the same command goes on from here")
        if code:
            raise SystemExit(f"{name} failed with code {code}; its message is above")
        file.write_text(json.dumps(_result(part, time.monotonic() - start), indent=1) + "\n")
    print(f"all {len(todo)} parts are done; python -m tools.gsm8k_report writes the report")


def parts(args: Arguments, out: Path) -> Iterator[Part]:
    """All parts in their order. Raises BadInput for a size, device or folder that cannot be."""
    from harness.device import usable_device
    from harness.errors import refuse
    from tools.gsm8k_smoke import source_words

    plan: dict[str, Any] = yaml.safe_load(PLAN.read_text())
    sizes = [k for k in plan if k != "runs"]
    if args.size not in sizes:
        raise refuse("size", "unknown", got=args.size, expected=f"one of {', '.join(sizes)}")
    device = usable_device(args.device)
    if args.size == "full" and device == "cpu":
        remedy = "size=reduced shows that it runs."
        raise refuse("device", "this wants a CUDA device", got=device, expected="cuda", remedy=remedy)
    size, scratch = plan[args.size], ROOT / ".cache" / "gsm8k_gpu" / args.size
    scratch.mkdir(parents=True, exist_ok=True)
    junit = scratch / "tests.xml"
    yield Part(
        "tests", ["-m", "pytest", *size["tests"], f"--junit-xml={_shown(junit)}"], junit, device, SOURCES["tests"]
    )
    for name, module in (("bench", "tools.bench_speed"), ("memory", "tools.bench_memory")):
        result = scratch / f"{name}.json"
        words = [*size[name], f"device={device}", f"out={_shown(result)}"]
        yield Part(name, ["-m", module, *words], result, device, SOURCES[name])
    local = [] if args.size != "full" else source_words(args.gsm8k)
    for words in plan["runs"]:
        common = [*words, *size["common"], *local, f"device={device}", f"runs_dir={args.runs_dir}"]
        yield Part(run_name(words), ["train.py", *common], _record(common), device)


def run_name(words: list[str]) -> str:
    return "-".join(["run", *(w.split("=", 1)[1] for w in words)])


def plan_names() -> list[str]:
    """Names of all parts in their order."""
    return ["tests", "bench", "memory", *(run_name(words) for words in yaml.safe_load(PLAN.read_text())["runs"])]


def finished(file: Path, key: str) -> bool:
    """Whether this part's JSON is there and was made by the same command and code."""
    return file.exists() and json.loads(file.read_text()).get("key") == key


def _record(words: list[str]) -> Path:
    from harness.config.compose import compositions
    from harness.config.schema import register
    from harness.config.validate import job_from
    from harness.records.plan import plan

    register()
    return plan(job_from(next(compositions(words, multirun=False)))).folder / "result.json"


def _result(part: Part, seconds: float) -> dict[str, Any]:
    """The part's JSON: what it measured, and the key that says when it must be done again."""
    made: dict[str, Any] = {"part": part.name, "key": part.key(), "device": part.device, "seconds": seconds}
    if part.result.suffix != ".xml":
        return made | {"result": json.loads(part.result.read_text())}
    from harness.measure.provenance import provenance

    suite = next(ElementTree.parse(part.result).iter("testsuite"))
    counts = {k: int(suite.get(k, 0)) for k in ("tests", "failures", "errors", "skipped")}
    return made | {"result": counts | {"provenance": provenance(part.device)}}


def _run(command: list[str], seconds: float | None) -> int | None:
    """Exit code; None where the time was over first, and the process was asked to stop and has ended."""
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
        return None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _shown(path: Path) -> str:
    """As it is typed: relative to the repository."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    main(sys.argv[1:])
