"""SHiRA in PEFT's folders, which hold positions as rows and columns; one r on all layers, with r(o + i) ≤ o·i."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from adapters._errors import AdapterError, problem
from adapters._peft_kinds import Kind, Tensors


def can_write(sites: Mapping[str, Any]) -> bool:
    whole = all(site.cfg.r * (site.o + site.i) <= site.o * site.i for site in sites.values())
    return whole and len({site.cfg.r for site in sites.values()}) == 1


def write(sites: Mapping[str, Any]) -> dict[str, Tensors]:
    return {
        name: {
            "shira_weight": site.lora_values,
            "shira_indices": torch.stack((site.basis_positions // site.i, site.basis_positions % site.i)).int(),
        }
        for name, site in sites.items()
    }


def basis(cfg: Any, tensors: Tensors, o: int, i: int) -> Tensors:
    """Positions in the file's order, which the values are in as well."""
    row, column = tensors["shira_indices"].long()  # ValueError unless there are two
    positions = row * i + column
    inside = bool(((row >= 0) & (row < o) & (column >= 0) & (column < i)).all())
    if not inside or len(positions.unique()) < len(positions):
        expected = f"distinct places in {o} rows and {i} columns"
        raise AdapterError(problem("shira_indices", "not the positions of a layer's weights", expected=expected))
    return {"basis_positions": positions}


KIND = Kind(
    peft_type="SHIRA",
    tensors=("shira_weight", "shira_indices"),
    integers=("shira_indices",),
    reads=("r",),
    ignores=("init_weights", "mask_type", "random_seed"),  # how the positions were drawn
    can_write=can_write,
    write=write,
    fields=lambda cfg, ranks, targets: {"r": cfg.r, "mask_type": "random"},
    settings=lambda config: {"r": config["r"], "seed": None},
    basis=basis,
    read=lambda site, tensors: {"lora_values": tensors["shira_weight"]},
)
