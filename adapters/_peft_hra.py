"""HRA in PEFT's folders: one r for all layers, so layers of a smaller r are padded with reflections that cancel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from adapters._peft_kinds import Kind, Tensors


def write(sites: Mapping[str, Any]) -> dict[str, Tensors]:
    largest = max(len(site.lora_U) for site in sites.values())
    return {name: {"hra_u": _padded(site.lora_U.T, largest)} for name, site in sites.items()}


def _padded(u: Tensor, r: int) -> Tensor:
    """u (i, r): two equal reflections are the identity, and along an axis exactly so."""
    pad = torch.zeros(len(u), r - u.shape[1]).to(u)
    pad[:1] = 1
    return torch.cat((u, pad), 1)


KIND = Kind(
    peft_type="HRA",
    tensors=("hra_u",),
    reads=("r",),
    ignores=("init_weights",),
    write=write,
    fields=lambda cfg, ranks, targets: {"r": max(ranks.values()), "apply_GS": False},
    settings=lambda config: {"r": config["r"]},
    rank=lambda tensors: tensors["hra_u"].shape[-1],
    read=lambda site, tensors: {"lora_U": tensors["hra_u"].T},
)
