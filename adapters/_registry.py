"""The variants there are, and what a config means for a layer: the registry and everything that needs shapes only."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from adapters._contract import Config, Variant, discover
from adapters._errors import AdapterError, problem
from adapters._targets import select_targets
from adapters._weights import layer_shape

VARIANTS: dict[str, type[Variant]] = discover()


def variant_of(cfg: Config) -> type[Variant]:
    """The Variant whose Config `cfg` is. Raises AdapterError for anything else."""
    for variant in VARIANTS.values():
        if type(cfg) is variant.Config:
            return variant
    expected = "an instance of " + ", ".join(v.Config.__name__ for v in VARIANTS.values())
    raise AdapterError(problem("attach", "not a config", got=cfg, expected=expected))


def variant_has_sites(variant: type[Variant]) -> bool:
    """False for variants that adapt no layer (`none`, `full`)."""
    return variant.forward is not Variant.forward or variant.changes_input()


def layer_config(cfg: Any, o: int, i: int) -> Any:
    """`cfg` with ranks no larger than an (o, i) layer allows."""
    fields = {f.name: f for f in dataclasses.fields(cfg)}
    if "r" not in fields:
        return cfg
    multiple = fields["r"].metadata["multiple"]  # hra's rows come in pairs, antipasto_rot's directions in fours
    r = min(cfg.r, min(o, i) // multiple * multiple)
    inner = {n: min(getattr(cfg, n), r) for n in ("lora_rank", "block", "k") if n in fields}  # sizes inside the rank
    return dataclasses.replace(cfg, r=r, **inner)


def parameter_count(model: nn.Module, cfg: Config) -> int:
    """Trainable parameters that `attach(model, cfg)` would make; reads shapes only, so a meta-device model will do."""
    variant = variant_of(cfg)
    if variant.trains_base:
        return sum(p.numel() for p in model.parameters())
    if not variant_has_sites(variant):
        return 0
    total = 0
    for layer in select_targets(model, cfg).values():
        o, i = layer_shape(layer)
        total += sum(torch.Size(s).numel() for s in variant.shapes(layer_config(cfg, o, i), o, i).values())
    return total


def field_names(cfg: Config) -> set[str]:
    return {f.name for f in dataclasses.fields(cfg)}
