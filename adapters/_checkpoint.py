"""Saving and loading: the trainable tensors, with what is needed to refuse a wrong base model (see `_format`).

What of a basis comes from calibration data is stored (`Variant.stored_basis`). The rest comes from the weight: it is
computed again, and the *function* is checked by the probes. They agree for any sign or rotation of the basis that
leaves ΔW the same, and differ for any other.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from enum import Enum
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapters._contract import DTYPES, Config, Shape, Variant
from adapters._errors import AdapterError, problem
from adapters._format import (
    COMMON,
    FORMAT,
    PROBES,
    VERSION,
    Checkpoint,
    Path_,
    harmless,
    read_checkpoint,
    tensors_sha256,
    write_tensors,
)
from adapters._hooks import Attachment, Restored, attach, attachment, detach
from adapters._registry import layer_config, variant_has_sites
from adapters._targets import PRESETS, select_targets
from adapters._weights import Layer, dense_weight, layer_shape, refuse_unloaded, values_sha256

log = logging.getLogger("adapters")
PROBE_SEED, PROBE_TOLERANCE = 2026, 1e-5
Expected = dict[str, tuple[tuple[int, ...], torch.dtype]]  # tensor's name → shape, dtype


# -- saving ------------------------------------------------------------------------------------------------------------
def save(model: nn.Module, path: Path_, *, basis: bool = False) -> int:
    """Writes the attached adapter to `path` (safetensors, format v1), atomically; returns the file's size in bytes.

    It is the adapter as it is now, `coeff` included. basis=True also stores the frozen bases, so that loading computes
    none. Raises AdapterError when nothing is attached, a tensor or ΔW is not finite, or the file cannot be written.
    """
    handle = attachment(model)
    adapted = {n: s.layer for n, s in handle.sites.items()}
    refuse_unloaded(adapted or (dict(model.named_modules()) if handle.variant.trains_base else {}))
    cfg = present_config(handle)
    kind = None if handle.variant.trains_base else DTYPES[cfg.dtype]  # casts nothing but tensors of unequal dtypes
    tensors = {n: p.detach().to("cpu", kind).contiguous() for n, p in handle.trainable().items()}
    bad = [n for n, t in tensors.items() if not torch.isfinite(t).all()]
    if bad:
        raise AdapterError(problem("save", f"NaN or Inf in {bad[0]}", remedy="Train again with a smaller lr."))
    whole = True
    for name, site in handle.sites.items():
        needed = site.stored_basis(site.cfg, handle.calibration_sha256 is not None, site.o, site.i).keys()
        frozen = basis_of(site)
        tensors |= {f"{name}.{k}": t.detach().cpu() for k, t in frozen.items() if basis or k in needed}
        whole = whole and (basis or needed >= frozen.keys())
    metadata = {
        "format": FORMAT,
        "format_version": VERSION,
        "variant": handle.variant.name,
        "base_model": str(getattr(getattr(model, "config", None), "_name_or_path", "")),
        "tensors_sha256": tensors_sha256(tensors),
        "whole_basis": json.dumps(whole),
        "config": json.dumps(config_fields(cfg)),
        "layers": json.dumps({n: _layer_record(handle, n, s) for n, s in handle.sites.items()}, separators=(",", ":")),
    }
    if handle.calibration_sha256 is not None:
        metadata["calibration_sha256"] = handle.calibration_sha256
    return write_tensors(Path(path), tensors, metadata)


def present_config(handle: Attachment) -> Any:
    """The config with what may have changed since `attach`: coeff, and the dtype after a `model.to(...)`.

    Regexes that could take long on a module's name, which no reader accepts, are replaced by the names they matched.
    """
    cfg, changes = handle.cfg, dict[str, Any]()
    if handle.sites:
        kinds = [p.dtype for p in handle.trainable().values()]
        changes["dtype"] = str(reduce(torch.promote_types, kinds)).removeprefix("torch.")
        if "coeff" in {f.name for f in dataclasses.fields(cfg)}:
            changes["coeff"] = handle.coeff
        patterns = (cfg.targets,) if isinstance(cfg.targets, str) else cfg.targets
        if not all(p in PRESETS or harmless(p) for p in patterns):
            changes["targets"] = exact_names(handle.sites)
    return dataclasses.replace(cfg, **changes)


def exact_names(names: Any) -> tuple[str, ...]:
    """Regexes that match these module names and no others."""
    return tuple(f"^{re.escape(n)}$" for n in names)


def basis_of(site: Variant) -> dict[str, Tensor]:
    """The site's frozen tensors by name (`basis_U`, …)."""
    return {k: t for k, t in site.layer.named_buffers(recurse=False) if k.startswith("basis_")}


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
        "dtype": _basis_dtype(site),
        "norm": float(f"{norm:.9g}"),
        "probes": [float(f"{t:.9g}") for t in probes.tolist()],
    } | ({"config": own} if own else {})


def _basis_dtype(site: Variant) -> str | None:
    kinds = {str(t.dtype).removeprefix("torch.") for t in basis_of(site).values() if t.dim() > 1}
    return min(kinds, default=None)


@torch.no_grad()
def bilinear_probes(site: Variant, weight: Tensor) -> tuple[Tensor, float]:
    """t_j = a_jᵀ ΔW b_j, j < 16, a and b seeded standard normal, in fp64; and ‖ΔW‖_F (from the factors, or estimated).

    E[t²] = ‖ΔW‖²_F, which serves as the norm's estimate for variants without factors.
    """
    generator = torch.Generator().manual_seed(PROBE_SEED)
    a = torch.randn(PROBES, site.o, generator=generator, dtype=torch.float64).to(weight.device)
    b = torch.randn(PROBES, site.i, generator=generator, dtype=torch.float64).to(weight.device)
    factors = site.factors()
    if factors is not None:
        P, Q = factors[0].to(torch.float64), factors[1].to(torch.float64)
        square = ((P.T @ P) * (Q @ Q.T)).sum().clamp_min(0)  # tr(QᵀPᵀPQ)
        return ((a @ P) * (b @ Q.T)).sum(1), float(square.sqrt())
    W = weight.to(torch.float64)
    x = site.forward_input(b) if site.changes_input() else b
    y = x @ W.T
    if type(site).forward is not Variant.forward:
        y = site.forward(x, y) - site.forward(
            0 * x[:1], 0 * y[:1]
        )  # less what comes of the bias, which is no part of ΔW
    site.drop_cache()  # of fp64 values, which no forward pass will ask for
    t = (a * (y - b @ W.T)).sum(1)
    return t, float(t.square().mean().sqrt())


# -- loading -----------------------------------------------------------------------------------------------------------
def load(model: nn.Module, path: Path_, *, strict: bool = True, cache_dir: Path_ | None = None) -> Attachment:
    """Attaches the adapter in `path` to `model`, after checking the file and that the base weights are the same.

    strict=False accepts another base model (a QLoRA adapter on the unquantized weights, say) with a warning, for
    variants without a basis. Raises AdapterError, naming the layer and the remedy, and leaves the model unchanged.
    """
    file = read_checkpoint(path)
    where = str(path)
    restored = Restored({}, {}, file.calibration_sha256)
    changed: list[str] = []
    if not variant_has_sites(file.variant):
        named = model.named_parameters() if file.variant.trains_base else ()
        _check_tensors(where, file.tensors, {n: (tuple(p.shape), p.dtype) for n, p in named})
    else:
        try:
            layers = select_targets(model, file.cfg)
        except AdapterError as error:
            raise AdapterError(f"{where}: {error}") from None
        restored = _check_layers(where, file, layers)
        changed = _check_weights(where, file, layers, strict)
    try:
        handle = attach(model, file.cfg, seed=0, cache_dir=cache_dir, _restored=restored)
    except (RuntimeError, LookupError) as error:  # of `restore`, whose tensors only the variant can judge
        raise AdapterError(problem(where, f"the stored basis does not fit this model ({error})")) from None
    try:
        with torch.no_grad():
            for name, p in handle.trainable().items():
                p.copy_(file.tensors[name])
        for name, site in handle.sites.items():
            site.drop_cache()
            _check_function(where, file, name, site, name in changed)
            if file.whole_basis and basis_of(site).keys() != restored.bases.get(name, {}).keys():
                raise AdapterError(problem(where, f"layer {name} does not hold its whole basis, as the file says"))
    except BaseException:
        detach(model)
        raise
    return handle


def _check_tensors(where: str, tensors: dict[str, Tensor], expected: Expected) -> None:
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        what = f"missing tensor {missing[0]}" if missing else f"unknown tensor {unknown[0]}"
        raise AdapterError(problem(where, what, remedy="Load it on the model it was trained on."))
    for name, (shape, dtype) in expected.items():
        given = tensors[name]
        for what, got, right in (("shape", tuple(given.shape), shape), ("dtype", given.dtype, dtype)):
            if got != right:
                raise AdapterError(problem(where, f"wrong {what} of {name}", got=got, expected=str(right)))
        if not torch.isfinite(given).all():
            raise AdapterError(problem(where, f"NaN or Inf in {name}"))


def _check_layers(where: str, file: Checkpoint, layers: dict[str, Layer]) -> Restored:
    """Names, shapes, dtypes and numbers; returns each layer's config and stored basis tensors."""
    if set(file.layers) != set(layers):
        odd = sorted(set(file.layers) ^ set(layers))[0]
        what = f"layer {odd} is not in both the file and the model"
        raise AdapterError(problem(where, what, remedy="Load it on the model it was trained on."))
    trained: dict[str, Tensor] = {}
    bases: dict[str, dict[str, Tensor]] = {}
    has_basis = file.variant.basis is not Variant.basis
    for name, tensor in file.tensors.items():
        layer_name, _, key = name.rpartition(".")
        if not (has_basis and key.startswith("basis_") and layer_name in layers):
            trained[name] = tensor
            continue
        bases.setdefault(layer_name, {})[key] = tensor
        if not torch.isfinite(tensor).all():
            raise AdapterError(problem(where, f"NaN or Inf in {name}"))
    cfgs: dict[str, Any] = {}
    expected: Expected = {}
    everywhere = {k for basis in bases.values() for k in basis} if file.whole_basis else set()
    for name, layer in layers.items():
        o, i = layer_shape(layer)
        cfg, shapes = _layer_config(where, file, name, o, i)
        cfgs[name] = cfg
        expected |= {f"{name}.{k}": (s, DTYPES[cfg.dtype]) for k, s in shapes.items()}
        needed = file.variant.stored_basis(cfg, file.calibration_sha256 is not None, o, i)
        given = {k: tuple(t.shape) for k, t in bases.get(name, {}).items()}
        for key, shape in needed.items():
            if given.get(key) != shape:
                raise AdapterError(
                    problem(where, f"wrong shape of {name}.{key}", got=given.get(key), expected=str(shape))
                )
        for key in sorted(given.keys() ^ (needed.keys() | everywhere)):
            what = f"{'unknown' if key in given else 'missing'} tensor {name}.{key}"
            raise AdapterError(problem(where, what, remedy="Save it again."))
    _check_tensors(where, trained, expected)
    return Restored(cfgs, bases, file.calibration_sha256)


def _check_weights(where: str, file: Checkpoint, layers: dict[str, Layer], strict: bool) -> list[str]:
    """Layers whose base weight is not the one of the file; raises where that is not acceptable."""
    changed = [n for n, m in layers.items() if values_sha256(dense_weight(m)) != file.layers[n]["weight_sha256"]]
    computed = file.variant.basis is not Variant.basis and not file.whole_basis
    if changed and (strict or computed):
        remedy = f"It was trained on {file.base_model or 'another model'}; load it there"
        remedy += "." if computed else ", or pass strict=False to accept another base."
        raise AdapterError(
            problem(where, f"the base weight of {changed[0]} is not the one this adapter was trained on", remedy=remedy)
        )
    if changed:
        log.warning("%s: base weights differ in %d of %d layers (strict=False)", where, len(changed), len(layers))
    return changed


def _layer_config(where: str, file: Checkpoint, name: str, o: int, i: int) -> tuple[Any, dict[str, Shape]]:
    """The layer's config and its trainable tensors' shapes."""
    own = file.layers[name].get("config", {})
    try:
        cfg = dataclasses.replace(layer_config(file.cfg, o, i), **own)
        return cfg, file.variant.shapes(cfg, o, i)
    except (TypeError, AdapterError) as error:
        raise AdapterError(problem(where, f"broken metadata of layer {name} ({error})")) from None


def _check_function(where: str, file: Checkpoint, name: str, site: Variant, other_base: bool) -> None:
    """rms(t − t′) and the norms' difference ≤ 1e-5·‖ΔW‖, so that a basis computed again is the one that was trained.

    On another base (strict=False) ΔW stays the same only for variants that are linear in x and have no basis.
    """
    record, weight = file.layers[name], dense_weight(site.layer)
    try:
        probes, norm = bilinear_probes(site, weight)
        comparable = not other_base or (site.factors() is not None and not basis_of(site))
    except (RuntimeError, AttributeError) as misfit:
        raise AdapterError(problem(where, f"the basis of layer {name} does not fit ({misfit})")) from None
    recorded = torch.tensor(record["probes"], dtype=torch.float64, device=probes.device)
    error = max(float((probes - recorded).square().mean().sqrt()), abs(norm - record["norm"]))
    if not comparable or error <= PROBE_TOLERANCE * norm:
        return
    what = f"layer {name} computes another function than the one saved (relative error {error / max(norm, 1e-300):.1e})"
    remedy = "Save with basis=True where it was trained; the file is then self-contained."
    if _basis_dtype(site) != record["dtype"]:
        remedy = f"Load the model in {record['dtype']}, as it was trained. Or s{remedy[1:]}"
    raise AdapterError(problem(where, what, remedy=remedy))
