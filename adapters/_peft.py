"""Reads and writes PEFT's adapter folders without importing PEFT (0.21, and other versions with its file format).

A folder holds adapter_config.json and adapter_model.safetensors, with tensors `base_model.model.<layer>.<tensor>`, and
`base_model.<tensor>` for those kept once per file. How one of PEFT's kinds translates is in `_peft_<variant>.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapters._attachment import Attachment, attachment
from adapters._checkpoint import exact_names
from adapters._contract import DTYPES, Config, Variant
from adapters._errors import AdapterError, problem
from adapters._files import atomic_file
from adapters._format import Path_, read_tensors, write_tensors
from adapters._hooks import Restored, attach, detach
from adapters._patterns import harmless
from adapters._peft_kinds import CONFIG, FILE, Fields, Kind, Tensors, adapter_folder, discover_kinds
from adapters._peft_lora import KIND as PLAIN_LORA
from adapters._registry import VARIANTS
from adapters._site import basis_of
from adapters._targets import PRESETS, select_targets
from adapters._weights import is_conv1d, is_linear, layer_shape
from adapters._wrappers import bare, named_modules

WEIGHTS = "adapter_model.safetensors"
LAYER_PREFIX, FILE_PREFIX = "base_model.model.", "base_model."
KINDS = discover_kinds(VARIANTS)
# Fields of every kind that a trained adapter does not depend on, or that its tensors' names and shapes repeat.
IGNORED = {
    *("peft_type", "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode"),
    *("peft_version", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
}
OFF: tuple[Any, ...] = (None, False, "none", "", [], {})  # values that mean the same in every field
INTEGERS = (torch.int32, torch.int64)


# -- export ------------------------------------------------------------------------------------------------------------
@torch.no_grad()
def export_peft(model: nn.Module, folder: Path_) -> int:
    """Writes the attached adapter, as it is now, for `peft.PeftModel.from_pretrained(base, folder)`.

    Returns the size of the tensor file in bytes. Values are computed in fp64 and written in fp32. Raises AdapterError
    for variants that PEFT has no form for, and for NaN or Inf.
    """
    handle = attachment(model)
    model, name = handle.model, handle.variant.name
    if not handle.sites:
        raise AdapterError(problem(name, "no adapter to export", remedy="Use the model's own save_pretrained."))
    kind = KINDS.get(name, PLAIN_LORA)
    transposed = any(is_conv1d(site.layer) for site in handle.sites.values())
    kind = kind if kind.can_write(handle.sites) and (kind.on_conv1d or not transposed) else PLAIN_LORA
    layers = kind.write({n: _in_fp64(site) for n, site in handle.sites.items()})
    tensors = {_key(n, k): _as_stored(t) for n, ts in layers.items() for k, t in ts.items()}
    for key, t in tensors.items():
        if not t.isfinite().all():
            raise AdapterError(problem("export_peft", f"NaN or Inf in {key}", remedy="Train again with a smaller lr."))
    ranks = {n: kind.rank(layers[n]) or s.cfg.r for n, s in handle.sites.items()} if kind.rank is not None else {}
    targets = _target_modules(handle.model, handle.sites)
    config = {
        "peft_type": kind.peft_type,
        "task_type": "CAUSAL_LM" if type(model).__name__.endswith("ForCausalLM") else None,
        "base_model_name_or_path": getattr(getattr(model, "config", None), "_name_or_path", "") or None,
        "inference_mode": True,
        "target_modules": targets,
        "modules_to_save": None,
    }
    config |= {"fan_in_fan_out": True} if transposed else {}
    config |= dict(kind.flags) | kind.fields(handle.cfg, ranks, targets)
    return _write_folder(Path(folder), tensors, config)


def _write_folder(folder: Path, tensors: Tensors, config: Fields) -> int:
    """Removes the old config first and writes the new one last: after a kill in between, no reader finds an adapter."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).unlink(missing_ok=True)
        size = write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
        with atomic_file(folder / CONFIG) as temporary:
            temporary.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise AdapterError(problem(str(folder), f"cannot write ({error.strerror or error})")) from None
    return size


def _key(layer: str, tensor: str) -> str:
    return f"{FILE_PREFIX}{tensor}" if layer == FILE else f"{LAYER_PREFIX}{layer}.{tensor}"


def _as_stored(t: torch.Tensor) -> torch.Tensor:
    return (t.float() if t.is_floating_point() else t).contiguous()


def _in_fp64(site: Variant) -> Variant:
    """A copy of the site with its tensors in fp64, on a layer without a weight."""
    layer = nn.Linear(site.i, site.o, bias=False, device="meta")
    for name, t in (dict(site.parameters()) | basis_of(site)).items():
        layer.register_buffer(name, t.detach().to("cpu", torch.float64 if t.is_floating_point() else t.dtype))
    twin = type(site)(layer, site.cfg, site.o, site.i)
    twin.coeff = site.coeff
    return twin


def _target_modules(model: nn.Module, layers: Iterable[str]) -> list[str] | str:
    """The shortest `target_modules` that selects exactly these layers: last names, full names, or a regex."""
    targets = set(layers)
    for suffixes in (sorted({n.rpartition(".")[2] for n in targets}), sorted(targets)):
        if {n for n, _ in named_modules(model) if any(f".{n}".endswith(f".{s}") for s in suffixes)} == targets:
            return suffixes
    return "|".join(re.escape(n) for n in sorted(targets))


# -- import ------------------------------------------------------------------------------------------------------------
def import_peft(model: nn.Module, folder: Path_) -> Attachment:
    """Attaches PEFT's adapter in `folder`, of a kind that a variant here computes exactly, to `model`.

    Adapts the layers that the file has tensors for. Raises AdapterError, and leaves the model as it was, for anything
    that this library would not compute exactly as PEFT does: the message names the field. PEFT's files do not say
    which base weights they were trained on.
    """
    path, model = adapter_folder(Path(folder)), bare(model)
    where = str(path)
    config, kinds = _read_config(path)
    layers, of_file = _read_layers(where, path, kinds)
    linear = {n: m for n, m in named_modules(model) if is_linear(m)}
    if unknown := sorted(layers.keys() - linear.keys()):
        raise AdapterError(problem(where, f"{unknown[0]} is not a linear layer of this model"))
    if config.get("fan_in_fan_out") and not all(is_conv1d(linear[n]) for n in layers):
        raise AdapterError(problem(where, "unsupported fan_in_fan_out for layers that are not Conv1D", got=True))
    name, kind = _kind_of(where, config, kinds, layers)
    try:
        layers = kind.spread({n: layers[n] for n in linear if n in layers}, of_file, config)
        cfg = VARIANTS[name].Config(targets=_own_targets(model, layers.keys()), **kind.settings(config))
        cfgs = {n: _layer_config(cfg, kind, config, n, t) for n, t in layers.items()}
        for n, own in cfgs.items():
            VARIANTS[name].shapes(own, *layer_shape(linear[n]))  # raises where the config does not fit
        bases = {n: _basis(name, kind, own, n, layers[n], *layer_shape(linear[n])) for n, own in cfgs.items()}
    except AdapterError as error:
        raise AdapterError(problem(where, f"unusable {CONFIG} ({error})")) from None
    except (LookupError, TypeError, ValueError, AttributeError, re.error) as error:
        raise AdapterError(problem(where, f"unusable {CONFIG} ({type(error).__name__}: {error})")) from None
    handle = attach(model, cfg, seed=0, _restored=Restored(cfgs, bases, None))
    try:
        for n, site in handle.sites.items():
            _fill(where, n, site, kind, layers[n])
    except BaseException:
        detach(model)
        raise
    handle.clamped.clear()  # the file's ranks are used as they are
    return handle


def _read_config(folder: Path) -> tuple[Fields, dict[str, Kind]]:
    """adapter_config.json, and the kinds of its peft_type by variant."""
    where = str(folder)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(problem(where, f"no readable {CONFIG} ({error})")) from None
    if not isinstance(config, dict):
        raise AdapterError(problem(where, f"{CONFIG} is not a JSON object"))
    peft_type = config.get("peft_type")
    kinds = {name: kind for name, kind in KINDS.items() if kind.peft_type == peft_type}
    if not kinds:
        expected = ", ".join(dict.fromkeys(kind.peft_type for kind in KINDS.values()))
        raise AdapterError(problem(where, "unsupported peft_type", got=peft_type, expected=expected))
    known = IGNORED.union(*((*kind.reads, *kind.ignores) for kind in kinds.values()))
    for key, value in config.items():
        if key not in known and value not in OFF:
            raise AdapterError(problem(where, f"unsupported {key}", got=value))
    return config, kinds


def _read_layers(where: str, folder: Path, kinds: Mapping[str, Kind]) -> tuple[dict[str, Tensors], Tensors]:
    """Tensors of each layer, by layer and PEFT's tensor name; and the tensors kept once per file."""
    if not (folder / WEIGHTS).exists() and (folder / "adapter_model.bin").exists():
        remedy = "Save it again with safetensors: nothing is unpickled here."
        raise AdapterError(problem(where, "adapter_model.bin is a pickle", remedy=remedy))
    layers: dict[str, Tensors] = {}
    for key, t in read_tensors(folder / WEIGHTS)[0].items():
        layer, name = _split(where, key, kinds)
        integer = any(name in kind.integers for kind in kinds.values())
        if t.dtype not in (INTEGERS if integer else DTYPES.values()):
            expected = "integers" if integer else "floating-point numbers"
            raise AdapterError(problem(where, f"wrong dtype of {key}", got=t.dtype, expected=expected))
        if not t.isfinite().all():
            raise AdapterError(problem(where, f"NaN or Inf in {key}"))
        layers.setdefault(layer, {})[name] = t
    of_file = layers.pop(FILE, {})
    if not layers:
        raise AdapterError(problem(where, f"no tensors of a layer in {WEIGHTS}"))
    return layers, of_file


def _split(where: str, key: str, kinds: Mapping[str, Kind]) -> tuple[str, str]:
    """Layer (or FILE) and tensor name of a key of the tensor file."""
    for kind in kinds.values():
        for name in (*kind.tensors, *kind.optional, *kind.aliases):
            layer = key.removeprefix(LAYER_PREFIX).removesuffix(f".{name}")
            if key == f"{LAYER_PREFIX}{layer}.{name}" and layer != FILE:
                return layer, kind.aliases.get(name, name)
        if kind.of_file is not None and re.fullmatch(re.escape(FILE_PREFIX) + kind.of_file, key):
            return FILE, key.removeprefix(FILE_PREFIX)
    raise AdapterError(problem(where, f"unsupported tensor {key}"))


def _kind_of(where: str, config: Fields, kinds: dict[str, Kind], layers: dict[str, Tensors]) -> tuple[str, Kind]:
    """The variant and kind that config and tensors agree on."""
    for flag in {f for kind in kinds.values() for f in kind.flags}:
        values = [kind.flags.get(flag, False) for kind in kinds.values()]
        if (got := config.get(flag, False)) not in values:
            expected = " or ".join(json.dumps(v) for v in values)
            raise AdapterError(problem(where, f"unusable {flag}", got=got, expected=expected))
        kinds = {n: k for n, k in kinds.items() if k.flags.get(flag, False) == got}
    first: dict[str, str] = {}  # variant → the first layer of its kind
    for layer, tensors in layers.items():
        name = next((n for n, kind in kinds.items() if kind.holds(tensors)), None)
        if name is None:
            got = {k: tuple(t.shape) for k, t in tensors.items()}
            expected = " or ".join(", ".join((*k.tensors, *(f"[{o}]" for o in k.optional))) for k in kinds.values())
            raise AdapterError(problem(where, f"wrong tensors of layer {layer}", got=got, expected=expected))
        first.setdefault(name, layer)
    if len(first) > 1:
        both = " and ".join(f"{n} ({layer})" for n, layer in first.items())
        remedy = "One adapter here is one variant: save the layers of each kind in a folder of their own."
        raise AdapterError(problem(where, f"layers of different kinds, {both}", remedy=remedy))
    (name,) = first
    return name, kinds[name]


def _own_targets(model: nn.Module, layers: Iterable[str]) -> Any:
    """A preset or regex that selects exactly these layers."""
    last = "|".join(sorted({re.escape(n.rpartition(".")[2]) for n in layers}))
    for targets in (*PRESETS, rf"(^|\.)({last})$"):
        try:
            matched = select_targets(model, Config(targets=targets))
        except AdapterError:  # no match
            continue
        if set(matched) == set(layers):
            return targets
    return exact_names(layers)


def _layer_config(cfg: Any, kind: Kind, config: Fields, layer: str, tensors: Tensors) -> Any:
    """Our config with the layer's own rank and alpha."""
    if kind.rank is None:
        return cfg
    own = {"r": _pattern(config, "rank_pattern", layer, cfg.r)}
    if (got := kind.rank(tensors)) not in (None, own["r"]):
        raise ValueError(f"layer {layer} has rank {got}, the config says {own['r']}")
    if config.get("alpha_pattern"):
        own["alpha"] = _pattern(config, "alpha_pattern", layer, cfg.alpha)
    return replace(cfg, **own)


def _basis(variant: str, kind: Kind, cfg: Any, layer: str, tensors: Tensors, o: int, i: int) -> Tensors:
    """The layer's frozen tensors, where the file holds them; empty where the variant computes them from the weight."""
    basis = kind.basis(cfg, tensors, o, i)
    got, expected = {k: tuple(t.shape) for k, t in basis.items()}, VARIANTS[variant].stored_basis(cfg, False, o, i)
    if basis and got != expected:
        raise AdapterError(problem(layer, "wrong shape of a frozen tensor", got=got, expected=str(expected)))
    return basis


def _pattern(config: Fields, key: str, layer: str, default: Any) -> Any:
    """The value of the first regex that matches the end of the layer's name, as PEFT looks it up."""
    for pattern, value in (config.get(key) or {}).items():
        if not harmless(pattern):
            raise ValueError(f"{key} {pattern!r}")
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return value
    return default


@torch.no_grad()
def _fill(where: str, layer: str, site: Variant, kind: Kind, tensors: Tensors) -> None:
    wrong = f"wrong shape of layer {layer}"
    try:
        values = kind.read(site, tensors)
    except AdapterError as error:
        raise AdapterError(problem(where, f"layer {layer}: {error}")) from None
    except (RuntimeError, LookupError) as error:
        raise AdapterError(problem(where, f"{wrong} ({error})")) from None
    for name, p in site.parameters().items():
        if values[name].shape != p.shape:
            raise AdapterError(problem(where, wrong, got=tuple(values[name].shape), expected=str(tuple(p.shape))))
        p.copy_(values[name])
    site.drop_cache()
