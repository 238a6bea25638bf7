"""GraLoRA in PEFT's folders: one r for all layers, so layers of a smaller r are padded with zeros in every block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from adapters._peft_kinds import Kind, Tensors


def write(sites: Mapping[str, Any]) -> dict[str, Tensors]:
    largest = max(site.cfg.r for site in sites.values())
    return {
        name: {
            "gralora_A": _padded(site.lora_A, site.cfg.k, largest),
            "gralora_B": site.scale * _padded(site.lora_B.transpose(1, 2), site.cfg.k, largest).transpose(1, 2),
        }
        for name, site in sites.items()
    }


def _padded(t: Tensor, k: int, r: int) -> Tensor:
    """(…, k·n) → (…, r): each of the k blocks of n gets zeros at its end."""
    blocks = torch.unflatten(t, -1, (k, -1))
    return pad(blocks, (0, r // k - blocks.shape[-1])).flatten(-2)


def fields(cfg: Any, ranks: dict[str, int], targets: list[str] | str) -> dict[str, Any]:
    r = max(ranks.values())  # the scale is folded into B, so that alpha/r is 1
    return {"r": r, "alpha": r, "gralora_k": cfg.k, "hybrid_r": 0, "bias": "none"}


KIND = Kind(
    peft_type="GRALORA",
    tensors=("gralora_A", "gralora_B"),
    on_conv1d=True,
    reads=("r", "alpha", "gralora_k", "fan_in_fan_out"),
    ignores=("gralora_dropout", "init_weights"),
    write=write,
    fields=fields,
    settings=lambda config: {"r": config["r"], "alpha": config["alpha"], "k": config["gralora_k"]},
    rank=lambda tensors: tensors["gralora_A"].shape[-1],
    read=lambda site, tensors: {"lora_A": tensors["gralora_A"], "lora_B": tensors["gralora_B"]},
)
