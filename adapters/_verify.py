"""What `load` checks against the model: tensors and base weights before attaching, the function after it."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import torch
from torch import Tensor, nn

from adapters._base import state_buffers
from adapters._contract import DTYPES, Shape, Variant
from adapters._errors import AdapterError, problem
from adapters._format import Checkpoint
from adapters._hooks import Restored
from adapters._probes import bilinear_probes
from adapters._registry import layer_config, owners_of
from adapters._site import basis_dtype
from adapters._weights import Layer, dense_weight, layer_shape, values_sha256
from adapters._wrappers import named_parameters

log = logging.getLogger("adapters")
PROBE_TOLERANCE = 1e-5
Expected = dict[str, tuple[tuple[int, ...], torch.dtype]]  # tensor's name → shape, dtype


def check_weights(where: str, file: Checkpoint, model: nn.Module) -> None:
    """Of variants without sites: all parameters are there (`full`), and buffers of the model's (those that changed)."""
    expected: Expected = {}
    if file.variant.trains_base:
        buffers = {n: getattr(*place) for n, place in state_buffers(model).items() if n in file.tensors}
        expected = {n: (tuple(t.shape), t.dtype) for n, t in (buffers | named_parameters(model)).items()}
    _check_tensors(where, file.tensors, expected)


def _check_tensors(where: str, tensors: dict[str, Tensor], expected: Expected) -> None:
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        what = f"missing tensor {missing[0]}" if missing else f"unknown tensor {unknown[0]}"
        raise AdapterError(problem(where, what, remedy="Load it on the model it was trained on."))
    for name, (shape, dtype) in expected.items():
        t = tensors[name]
        for what, got, right in (("shape", tuple(t.shape), shape), ("dtype", t.dtype, dtype)):
            if got != right:
                raise AdapterError(problem(where, f"wrong {what} of {name}", got=got, expected=str(right)))
        if not torch.isfinite(t).all():
            raise AdapterError(problem(where, f"NaN or Inf in {name}"))


def check_layers(where: str, file: Checkpoint, layers: dict[str, Layer]) -> Restored:
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
    expected: dict[str, Expected] = {}
    everywhere = {k for basis in bases.values() for k in basis} if file.whole_basis else set()
    for name, layer in layers.items():
        o, i = layer_shape(layer)
        cfg, shapes = _layer_config(where, file, name, o, i)
        cfgs[name] = cfg
        expected[name] = {f"{name}.{k}": (s, DTYPES[cfg.dtype]) for k, s in shapes.items()}
        needed = file.variant.stored_basis(cfg, file.calibration_sha256 is not None, o, i)
        stored = {k: tuple(t.shape) for k, t in bases.get(name, {}).items()}
        for key, shape in needed.items():
            if (got := stored.get(key)) != shape:
                raise AdapterError(problem(where, f"wrong shape of {name}.{key}", got=got, expected=str(shape)))
        for key in sorted(stored.keys() ^ (needed.keys() | everywhere)):
            what = f"{'unknown' if key in stored else 'missing'} tensor {name}.{key}"
            raise AdapterError(problem(where, what, remedy="Save it again."))
    owners = [n for n, owner in owners_of(file.variant, cfgs).items() if owner == n]
    _check_tensors(where, trained, {k: e for n in owners for k, e in expected[n].items()})
    return Restored(cfgs, bases, file.calibration_sha256)


def check_bases(where: str, file: Checkpoint, layers: dict[str, Layer], strict: bool) -> dict[str, str]:
    """Whether each layer's weight is the file's: `same`, `uncast`, `other`; raises where that is not acceptable."""
    kinds = {n: _base_kind(dense_weight(m), file.layers[n]) for n, m in layers.items()}
    others = [n for n, kind in kinds.items() if kind == "other"]
    computed = _basis_of_weight(file)
    if others and (strict or computed):
        remedy = f"It was trained on {file.base_model or 'another model'}; load it there"
        remedy += "." if computed else ", or pass strict=False to accept another base."
        raise AdapterError(
            problem(where, f"the base weight of {others[0]} is not the one this adapter was trained on", remedy=remedy)
        )
    if others:
        log.warning("%s: base weights differ in %d of %d layers (strict=False)", where, len(others), len(layers))
    return kinds


def _basis_of_weight(file: Checkpoint) -> bool:
    """Whether some frozen tensor has to be computed from the weight."""
    variant = file.variant
    return variant.basis is not Variant.basis and variant.basis_reads_weight and not file.whole_basis


def _base_kind(weight: Tensor, record: dict[str, Any]) -> str:
    """`same`; `uncast`, what the weight was before the model was cast with the adapter on it; or `other`."""
    if values_sha256(weight) == record["weight_sha256"]:
        return "same"
    casts = record.get("casts", [])
    for name in casts:
        weight = weight.to(DTYPES[name])
    return "uncast" if casts and values_sha256(weight) == record["weight_sha256"] else "other"


def _layer_config(where: str, file: Checkpoint, name: str, o: int, i: int) -> tuple[Any, dict[str, Shape]]:
    """The layer's config and its trainable tensors' shapes."""
    own = file.layers[name].get("config", {})
    try:
        cfg = dataclasses.replace(layer_config(file.cfg, o, i), **own)
        return cfg, file.variant.shapes(cfg, o, i)
    except (TypeError, AdapterError) as error:
        raise AdapterError(problem(where, f"broken metadata of layer {name} ({error})")) from None


def check_function(where: str, file: Checkpoint, name: str, site: Variant, *, other_base: bool) -> None:
    """rms(t − t′) and the norms' difference ≤ 1e-5·‖ΔW‖, so that a basis computed again is the one that was trained.

    On another base ΔW stays the same only for variants that are linear in x, and whose basis, if any, is stored.
    """
    record, weight = file.layers[name], dense_weight(site.layer)
    try:
        probes, norm = bilinear_probes(site, weight)
        comparable = not other_base or (site.factors() is not None and not _basis_of_weight(file))
    except (RuntimeError, AttributeError) as misfit:
        raise AdapterError(problem(where, f"the basis of layer {name} does not fit ({misfit})")) from None
    recorded = torch.tensor(record["probes"], dtype=torch.float64, device=probes.device)
    error = max(float((probes - recorded).square().mean().sqrt()), abs(norm - record["norm"]))
    if not comparable or error <= PROBE_TOLERANCE * norm:
        return
    what = f"layer {name} computes another function than the one saved (relative error {error / max(norm, 1e-300):.1e})"
    remedy = "Save with basis=True where it was trained; the file is then self-contained."
    if basis_dtype(site) != record["dtype"]:
        remedy = f"Load the model in {record['dtype']}, as it was trained. Or s{remedy[1:]}"
    raise AdapterError(problem(where, what, remedy=remedy))
