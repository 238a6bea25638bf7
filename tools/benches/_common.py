"""What the benches share: timing, rounds, the sections of reports/bench.json, and how a page states figures."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

from harness.device import device_name, synchronize
from harness.files import write_text
from harness.hashing import sha256, source_sha256
from harness.measure.provenance import provenance
from harness.paths import ROOT, under_root

T = TypeVar("T")
HELPERS = (
    "tools/_shared.py",
    "tools/benches/_*.py",
    "adapters/*.py",
    "harness/training/*.py",
    "harness/evaluation/*.py",
)


def timed(call: Callable[[], T], device: Any = "cpu") -> tuple[float, T]:
    """Seconds that `call` takes, until the device is idle, and what it returns."""
    synchronize(device)
    start = time.perf_counter()
    result = call()
    synchronize(device)
    return time.perf_counter() - start, result


def rounds(most: int, minutes: int) -> Iterator[int]:
    """Numbers of the rounds of a measurement; none but the first begins after so many minutes."""
    start = time.monotonic()
    for turn in range(most):
        if turn and time.monotonic() > start + 60 * minutes:
            return
        yield turn
        print(f"round {turn + 1}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


# -- sections ----------------------------------------------------------------------------------------------------------
def write_section(args: Any, bench: Any) -> None:
    """Makes `bench.measure(args)` the section `args.section` of the JSON file `args.out`. bench: the measuring module.

    A section that these sources gave, with these arguments and on this machine, is kept unless `args.force`: `make
    bench` continues where it was stopped.
    """
    where = {k: v for k, v in vars(args).items() if k not in ("section", "out", "force")}
    used = [Path(bench.__file__), ROOT / "harness" / "loss.py"]
    used += [file for pattern in HELPERS for file in sorted(ROOT.glob(pattern))]
    key = sha256([where, source_sha256(used), device_name(args.device), torch.get_num_threads()])[:16]
    if not args.force and _sections(args.out).get(args.section, {}).get("key") == key:
        print(f"{args.section}: up to date (force=true measures again)")
        return
    section = {"arguments": where} | bench.measure(args) | {"key": key, "peft": version("peft")}
    section |= {"provenance": provenance(args.device)}
    write_text(under_root(args.out), json.dumps(_sections(args.out) | {args.section: section}, indent=1) + "\n")


def _sections(out: str) -> dict[str, Any]:
    path = under_root(out)
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return content


# -- words -------------------------------------------------------------------------------------------------------------
def spread(ratios: Iterable[float]) -> tuple[float, float, float]:
    """Median, least and largest."""
    figures = list(ratios)
    return statistics.median(figures), min(figures), max(figures)


def shown(figures: tuple[float, float, float] | None, mark: str = "") -> str:
    """`1.02 [1.01, 1.04]`, marked."""
    return "–" if figures is None else f"{figures[0]:.2f} [{figures[1]:.2f}, {figures[2]:.2f}]{mark}"


def setting(section: dict[str, Any]) -> str:
    """The machine, and what ran on it."""
    p = section["provenance"]
    threads = f", {p['threads']} thread{'s' * (p['threads'] > 1)}" if not p["cuda"] else ""
    names = {name: p["versions"][name] for name in ("torch", "transformers")} | {"peft": section["peft"]}
    return f"{p['device']}{threads}; {', '.join(f'{name} {version}' for name, version in names.items())}."
