"""Saving and loading: the trainable tensors, with what is needed to refuse a wrong base model (see `_format`).

The part of a basis that comes from calibration data is stored (`Variant.stored_basis`). The rest is recomputed from the
weight, and probes check that the *function* is the same: any sign or rotation of the basis will do that leaves ΔW as it
was, and no other.
"""

from __future__ import annotations

import dataclasses
import re
from enum import Enum
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapters._attachment import Attachment, attachment
from adapters._contract import DTYPES, Config, Variant, dtype_name
from adapters._errors import AdapterError, problem
from adapters._format import COMMON, Checkpoint, Path_, read_checkpoint, write_checkpoint
from adapters._hooks import Restored, attach, detach
from adapters._patterns import harmless
from adapters._probes import bilinear_probes
from adapters._registry import layer_config, variant_has_sites
from adapters._site import basis_dtype, basis_of
from adapters._targets import PRESETS, select_targets
from adapters._verify import check_bases, check_function, check_layers, check_weights
from adapters._weights import dense_weight, refuse_unloaded, values_sha256
from adapters._wrappers import bare, named_parameters


# -- saving ------------------------------------------------------------------------------------------------------------
def save(model: nn.Module, path: Path_, *, basis: bool = False) -> int:
    """Writes the attached adapter to `path` (safetensors, format v1), atomically; returns the file's size in bytes.

    The file holds the adapter as it is now, `coeff` included. basis=True also stores the frozen bases, so that loading
    computes none; a model that was cast since `attach` is always saved so, since its weights no longer give them.
    `full` also stores the buffers that training changed. Other variants store none: keep a base's BatchNorm layers in
    evaluation mode while they train, or its statistics are lost.
    Raises AdapterError when nothing is attached, a tensor or ΔW is not finite, or the file cannot be written.
    """
    handle = attachment(model)
    adapted = {n: s.layer for n, s in handle.sites.items()}
    refuse_unloaded(adapted or (dict(model.named_modules()) if handle.variant.trains_base else {}))
    cfg = present_config(handle)
    basis = basis or any(site.keeps_basis for site in handle.sites.values())
    tensors = _trained_tensors(handle, None if handle.variant.trains_base else DTYPES[cfg.dtype])
    whole = True
    for name, site in handle.sites.items():
        needed = site.stored_basis(site.cfg, handle.calibration_sha256 is not None, site.o, site.i).keys()
        frozen = basis_of(site)
        tensors |= {f"{name}.{k}": t.detach().to("cpu", copy=True) for k, t in frozen.items() if basis or k in needed}
        whole = whole and (basis or needed >= frozen.keys())
    record = {
        "variant": handle.variant.name,
        "tensors_version": handle.variant.tensors_version,
        "base_model": str(getattr(getattr(handle.model, "config", None), "_name_or_path", "")),
        "whole_basis": whole,
        "config": config_fields(cfg),
        "layers": {n: _layer_record(handle, n, s) for n, s in handle.sites.items()},
    }
    if handle.calibration_sha256 is not None:
        record["calibration_sha256"] = handle.calibration_sha256
    return write_checkpoint(Path(path), tensors, record)


def _trained_tensors(handle: Attachment, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """What training changed, by name, on the CPU; dtype: of a file whose tensors have unequal ones."""
    if handle.is_disabled and handle.variant.trains_base:
        what, remedy = "the trained weights are swapped out", "Save outside the `disabled()` block."
        raise AdapterError(problem("save", what, remedy=remedy))
    trained: dict[str, Tensor] = dict(handle.trainable())
    if handle.variant.trains_base:
        trained |= handle.base.changed_buffers()
    tensors = {n: t.detach().to("cpu", dtype).contiguous() for n, t in trained.items()}
    bad = [n for n, t in tensors.items() if not torch.isfinite(t).all()]
    if bad:
        raise AdapterError(problem("save", f"NaN or Inf in {bad[0]}", remedy="Train again with a smaller lr."))
    return tensors


def present_config(handle: Attachment) -> Any:
    """The config with what may have changed since `attach`: coeff, and the dtype after a `model.to(...)`.

    Regexes that could take long on a module's name, which no reader accepts, are replaced by the names they matched.
    """
    cfg, changes = handle.cfg, dict[str, Any]()
    if handle.sites:
        kinds = [p.dtype for p in handle.trainable().values()]
        changes["dtype"] = dtype_name(reduce(torch.promote_types, kinds))
        if "coeff" in {f.name for f in dataclasses.fields(cfg)}:
            changes["coeff"] = handle.coeff
        patterns = (cfg.targets,) if isinstance(cfg.targets, str) else cfg.targets
        if not all(p in PRESETS or harmless(p) for p in patterns):
            changes["targets"] = exact_names(handle.sites)
    return dataclasses.replace(cfg, **changes)


def exact_names(names: Any) -> tuple[str, ...]:
    """Regexes that match these module names and no others."""
    return tuple(f"^{re.escape(n)}$" for n in names)


def config_fields(cfg: Config) -> dict[str, Any]:
    """The config as JSON values."""
    return {k: v.value if isinstance(v, Enum) else v for k, v in dataclasses.asdict(cfg).items()}


def _layer_record(handle: Attachment, name: str, site: Variant) -> dict[str, Any]:
    weight = dense_weight(site.layer)
    probes, norm = bilinear_probes(site, weight)
    if not probes.isfinite().all():
        raise AdapterError(problem("save", f"layer {name} computes NaN or Inf", remedy="Train again, smaller lr."))
    usual = config_fields(layer_config(handle.cfg, site.o, site.i))
    own = {k: v for k, v in config_fields(site.cfg).items() if v != usual[k] and k not in COMMON}
    return {
        "weight_sha256": values_sha256(weight),
        "dtype": basis_dtype(site),
        "norm": float(f"{norm:.9g}"),
        "probes": [float(f"{t:.9g}") for t in probes.tolist()],
        **({"config": own} if own else {}),
        **({"casts": [dtype_name(d) for d in site.casts]} if site.casts else {}),
    }


# -- loading -----------------------------------------------------------------------------------------------------------
def load(model: nn.Module, path: Path_, *, strict: bool = True, cache_dir: Path_ | None = None) -> Attachment:
    """Attaches the adapter in `path` to `model`, after checking the file and that the base weights are the same.

    strict=False accepts another base model (the unquantized weights for a QLoRA adapter, say) with a warning, for
    variants whose basis need not be computed from it. Raises AdapterError, naming the layer and the remedy, and leaves
    the model unchanged.
    """
    file, where, model = read_checkpoint(path), str(path), bare(model)
    restored, bases = Restored({}, {}, file.calibration_sha256), dict[str, str]()
    if not variant_has_sites(file.variant):
        check_weights(where, file, model)
    else:
        try:
            layers = select_targets(model, file.cfg)
        except AdapterError as error:
            raise AdapterError(f"{where}: {error}") from None
        restored = check_layers(where, file, layers)
        bases = check_bases(where, file, layers, strict)
    try:
        handle = attach(model, file.cfg, seed=0, cache_dir=cache_dir, _restored=restored)
    except (RuntimeError, LookupError) as error:  # of `restore`, whose tensors only the variant can judge
        raise AdapterError(problem(where, f"the stored basis does not fit this model ({error})")) from None
    try:
        _fill(where, file, handle)
        for name, site in handle.sites.items():
            if bases[name] == "same":
                site.casts = [DTYPES[d] for d in file.layers[name].get("casts", [])]
            site.keeps_basis = bool(site.casts) or (file.whole_basis and bases[name] != "same")
            check_function(where, file, name, site, other_base=bases[name] != "same")
            if file.whole_basis and basis_of(site).keys() != restored.bases.get(name, {}).keys():
                raise AdapterError(problem(where, f"layer {name} does not hold its whole basis, as the file says"))
    except BaseException:
        detach(model)
        raise
    return handle


@torch.no_grad()
def _fill(where: str, file: Checkpoint, handle: Attachment) -> None:
    """Copies the file's trained tensors into the attached ones (`full`: into the base)."""
    if handle.variant.trains_base:
        places = named_parameters(handle.model) | {n: getattr(*b) for n, b in handle.base.buffers.items()}
        for name, tensor in file.tensors.items():
            places[name].copy_(tensor)
    for name, site in ((n, s) for n, s in handle.sites.items() if s.owner is s):
        tensors = {key: file.tensors[f"{name}.{key}"] for key in site.parameters()}
        if file.tensors_version != site.tensors_version:
            try:
                tensors = site.converted(tensors, file.tensors_version)
            except AdapterError as error:
                raise AdapterError(f"{where}: {error}") from None
        for key, p in site.parameters().items():
            p.copy_(tensors[key])
