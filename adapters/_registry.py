"""The variants there are, and what a config means for a layer: the registry and everything that needs shapes only."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from typing import Any

import torch
from torch import nn

from adapters._contract import Config, Variant
from adapters._errors import AdapterError, problem
from adapters._fields import with_rank
from adapters._targets import select_targets
from adapters._weights import layer_shape


def discover() -> dict[str, type[Variant]]:
    """name → Variant for every `adapters/<name>.py`; a file must define exactly one Variant with its own Config."""
    import adapters

    variants: dict[str, type[Variant]] = {}
    for info in sorted(pkgutil.iter_modules(adapters.__path__), key=lambda m: m.name):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"adapters.{info.name}")
        classes = [
            c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Variant) and c is not Variant
        ]
        classes = [c for c in classes if c.__module__ == module.__name__]
        if len(classes) != 1:
            raise ImportError(f"adapters/{info.name}.py: {len(classes)} Variant classes; expected exactly one")
        classes[0].name = info.name
        variants[info.name] = classes[0]
    return variants


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
    """`cfg` with ranks no larger than an (o, i) layer allows, and s as configured. AdapterError where no rank fits."""
    fields = {f.name: f for f in dataclasses.fields(cfg)}
    if "r" not in fields:
        return cfg
    lo, multiple = fields["r"].metadata["lo"] or 1, fields["r"].metadata["multiple"]
    largest = min(o, i) // multiple * multiple  # hra's rows come in pairs, antipasto_rot's directions in fours
    if largest < lo:
        what = f"no r fits {o} outputs and {i} inputs"
        expected = f"{lo} <= r <= {min(o, i)}" + (f", a multiple of {multiple}" if multiple > 1 else "")
        remedy = "Leave this layer out of targets."
        raise AdapterError(problem(type(cfg).__name__, what, got=cfg.r, expected=expected, remedy=remedy))
    r = min(cfg.r, largest)
    inner = {n: min(getattr(cfg, n), r) for n in ("lora_rank", "block", "k") if n in fields}  # sizes inside the rank
    return with_rank(dataclasses.replace(cfg, **inner), r)


def checked_config(variant: type[Variant], cfg: Any, o: int, i: int, name: str) -> Any:
    """`layer_config` of a layer that the variant's tensors fit; otherwise AdapterError, which names the layer."""
    try:
        own = layer_config(cfg, o, i)
        variant.shapes(own, o, i)
    except AdapterError as error:
        raise AdapterError(f"layer {name}: {error}") from None
    return own


def parameter_count(model: nn.Module, cfg: Config) -> int:
    """Number of parameters that `attach(model, cfg)` would train; reads shapes only: works on the meta device."""
    variant = variant_of(cfg)
    if variant.trains_base:
        return sum(p.numel() for p in model.parameters())
    if not variant_has_sites(variant):
        return 0
    sizes = {name: layer_shape(layer) for name, layer in select_targets(model, cfg).items()}
    cfgs = {name: checked_config(variant, cfg, *size, name) for name, size in sizes.items()}
    cfgs = variant.distribute(cfgs, sizes, None)
    owners = [name for name, owner in owners_of(variant, cfgs).items() if owner == name]
    shapes = [s for name in owners for s in variant.shapes(cfgs[name], *sizes[name]).values()]
    return sum(torch.Size(s).numel() for s in shapes)


def owners_of(variant: type[Variant], cfgs: dict[str, Any]) -> dict[str, str]:
    """Layer → the layer whose trainable tensors it uses: itself, or the first of those that are tied."""
    first: dict[Any, str] = {}
    groups = {name: variant.tied(cfg) for name, cfg in cfgs.items()}
    return {name: first.setdefault(name if group is None else group, name) for name, group in groups.items()}


def field_names(cfg: Config) -> set[str]:
    """Names of the config's fields."""
    return {f.name for f in dataclasses.fields(cfg)}
