"""What the tools share: checked choices, calibration, and jobs from command-line words."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import adapters as ad
from harness.config.compose import compositions
from harness.config.job import Job
from harness.config.schema import register
from harness.config.validate import job_from
from harness.errors import refuse
from harness.records.plan import plan


def one_of(where: str, value: str, options: Iterable[str]) -> str:
    """`value`, if it is an option. Raises BadInput."""
    if value not in (known := list(options)):
        raise refuse(where, "unknown", got=value, expected=f"one of {', '.join(known)}")
    return value


def variants(names: list[str], *, trains_base: bool = False) -> list[str]:
    """The named variants, or every one for `all`; those that train the base only if `trains_base`. Raises BadInput."""
    known = [n for n, v in ad.VARIANTS.items() if trains_base or not v.trains_base]
    return known if names == ["all"] else [one_of("variants", name, known) for name in names]


def calibration(variant: str, ids: Any) -> list[Any] | None:
    """Batches for `ad.attach` with the variant's default config: one if it requires calibration, else None."""
    kind = ad.VARIANTS[variant]
    return [ids] if kind.calibration(kind.Config()).value == "required" else None


def perturb(parameters: Iterable[Tensor], noise: float = 0.02) -> None:
    """Adds normal noise of this standard deviation, so that no tensor keeps its special initial values."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in parameters:
            p.add_((noise * torch.randn(p.shape, generator=generator)).to(p))


def job_of(words: list[str]) -> Job:
    """The job that train.py makes of these words."""
    register()
    return job_from(next(compositions(words, multirun=False)))


def record_file(words: list[str]) -> Path:
    """Path of the record that train.py writes for these words."""
    return plan(job_of(words)).folder / "result.json"
