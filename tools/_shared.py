"""What the tools share: checked choices, jobs from command-line words, timing, and JSON files with their provenance."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from harness.errors import refuse
from harness.files import write_text
from harness.paths import under_root

if TYPE_CHECKING:
    from pathlib import Path

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


def write_json(out: str, content: dict[str, Any], device: str) -> None:
    """Writes `content` and where it was measured to `out`; does nothing if `out` is empty."""
    from harness.measure.provenance import provenance

    if out:
        write_text(under_root(out), json.dumps(content | {"provenance": provenance(device)}, indent=1) + "\n")
