"""What the tools share: checked choices, jobs from command-line words, timing, sections of reports/bench.json."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from harness.errors import refuse
from harness.files import write_text
from harness.paths import ROOT, under_root

if TYPE_CHECKING:
    from torch import Tensor

    from harness.config.job import Job

T = TypeVar("T")


def one_of(where: str, value: str, options: Iterable[str]) -> str:
    """`value`, if it is an option. Raises BadInput."""
    if value not in (known := list(options)):
        raise refuse(where, "unknown", got=value, expected=f"one of {', '.join(known)}")
    return value


def variants(names: list[str], *, trains_base: bool = False) -> list[str]:
    """The named variants, or every one for `all`; those that train the base only if `trains_base`. Raises BadInput."""
    import adapters as ad

    known = [n for n, v in ad.VARIANTS.items() if trains_base or not v.trains_base]
    return known if names == ["all"] else [one_of("variants", name, known) for name in names]


def calibration(variant: str, ids: Any) -> list[Any] | None:
    """Batches for `ad.attach` with the variant's default config: one if it requires calibration, else None."""
    import adapters as ad

    kind = ad.VARIANTS[variant]
    return [ids] if kind.calibration(kind.Config()).value == "required" else None


def perturb(parameters: Iterable[Tensor], noise: float = 0.02) -> None:
    """Adds normal noise of this standard deviation, so that no tensor keeps its special initial values."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in parameters:
            p.add_((noise * torch.randn(p.shape, generator=generator)).to(p))


def job_of(words: list[str]) -> Job:
    """The job that train.py makes of these words."""
    from harness.config.compose import compositions
    from harness.config.schema import register
    from harness.config.validate import job_from

    register()
    return job_from(next(compositions(words, multirun=False)))


def record_file(words: list[str]) -> Path:
    """Path of the record that train.py writes for these words."""
    from harness.records.plan import plan

    return plan(job_of(words)).folder / "result.json"


def timed(call: Callable[[], T], device: Any = "cpu") -> tuple[float, T]:
    """Seconds that `call` takes, until the device is idle, and what it returns."""
    from harness.device import synchronize

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


def write_section(args: Any, name: str, source: str, measure: Callable[[], dict[str, Any]]) -> None:
    """Makes `measure()` one section of the JSON file `args.out`, with the arguments and where it was measured.

    A section that these sources gave, with these arguments and on this machine, is kept unless `args.force`: `make
    bench` continues where it was stopped. source: the calling tool's file.
    """
    from importlib.metadata import version

    import torch

    from harness.device import device_name
    from harness.hashing import sha256, source_sha256
    from harness.measure.provenance import provenance

    where = {k: v for k, v in vars(args).items() if k not in ("out", "force")}
    device = where.get("device", "cpu")
    used = [Path(source), ROOT / "harness" / "loss.py", *sorted((ROOT / "tools").glob("_*.py"))]
    for room in ("adapters", "harness/training", "harness/evaluation"):
        used += sorted((ROOT / room).glob("*.py"))
    key = sha256([where, source_sha256(used), device_name(device), torch.get_num_threads()])[:16]
    if not args.force and _sections(args.out).get(name, {}).get("key") == key:
        print(f"{name}: up to date (force=true measures again)")
        return
    section = measure() | {"arguments": where, "key": key, "peft": version("peft")}
    section |= {"provenance": provenance(device)}
    write_text(under_root(args.out), json.dumps(_sections(args.out) | {name: section}, indent=1) + "\n")


def _sections(out: str) -> dict[str, Any]:
    path = under_root(out)
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return content
