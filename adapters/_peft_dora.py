"""DoRA in PEFT's folders: LoRA with use_dora and a magnitude m = m₀ + δ per output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from adapters._errors import AdapterError, problem
from adapters._peft_kinds import Kind, Tensors
from adapters._peft_lora import IGNORES, READS, A, B, fields, rank, settings

MAGNITUDE = "lora_magnitude_vector"


def write(sites: Mapping[str, Any]) -> dict[str, Tensors]:
    return {
        name: {
            A: site.lora_A,
            B: site.scale * site.lora_B,
            MAGNITUDE: _magnitude(site),
        }
        for name, site in sites.items()
    }


def _magnitude(site: Any) -> Tensor:
    """m = m₀ + δ; a row of W that is zero stays zero."""
    m0 = site.basis_square.sqrt()  # (o,)
    return torch.where(m0 == 0, 0, m0 + site.lora_delta)


def _delta(site: Any, tensors: Tensors) -> Tensor:
    """δ = m − m₀; a row of W that is zero has no magnitude to change."""
    m0 = site.basis_square.double().sqrt()  # (o,)
    m = tensors[MAGNITUDE].to(m0)
    if (m[m0 == 0] != 0).any():
        raise AdapterError(problem(MAGNITUDE, "is not zero where the base weight's row is"))
    delta: Tensor = m - m0
    return delta


KIND = Kind(
    peft_type="LORA",
    flags={"use_dora": True},
    tensors=(A, B, MAGNITUDE),
    aliases={f"{MAGNITUDE}.weight": MAGNITUDE},  # PEFT reads both
    on_conv1d=True,
    reads=READS,
    ignores=IGNORES,
    write=write,
    fields=fields,
    settings=settings,
    rank=rank,
    read=lambda site, t: {"lora_A": t[A], "lora_B": t[B], "lora_delta": _delta(site, t)},
)
