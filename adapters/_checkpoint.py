"""Checkpoint format v1: trainable tensors in a safetensors file, with what is needed to refuse a wrong base model.

Metadata (safetensors keeps strings only; the last two are JSON):
    format, format_version   "adapters", "1"
    variant, base_model      variant's name; the model's own id, for people
    tensors_sha256           over names, dtypes, shapes and bytes of all tensors in the file
    config                   the Config's fields
    layers                   per adapted layer: weight_sha256 of the dense base weight's values; dtype of its basis;
                             norm ‖ΔW‖ and probes, 16 seeded bilinear forms aᵀΔWb in fp64

A basis that comes from the weight alone is not stored but computed again, and the *function* is checked by the probes:
they agree for any sign or rotation of the basis that leaves ΔW the same, and differ for any other.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from adapters._bases import atomic_file
from adapters._contract import Calibration, Config, Variant
from adapters._errors import AdapterError, problem
from adapters._hooks import VARIANTS, Attachment, attach, attachment, detach, layer_config, variant_has_sites
from adapters._targets import select_targets
from adapters._weights import dense_weight, layer_shape, values_sha256

log = logging.getLogger("adapters")
FORMAT, VERSION = "adapters", "1"
PROBES, PROBE_SEED, PROBE_TOLERANCE = 16, 2026, 1e-5
Path_ = str | os.PathLike[str]


# -- saving ------------------------------------------------------------------------------------------------------------
def save(model: nn.Module, path: Path_, *, basis: bool = False) -> int:
    """Writes the attached adapter to `path` (safetensors, format v1), atomically; returns the file's size in bytes.

    basis=True also stores the frozen bases, so that loading computes none. Raises AdapterError when nothing is attached
    or a tensor is not finite.
    """
    handle = attachment(model)
    tensors = {n: p.detach().cpu().contiguous() for n, p in handle.trainable().items()}
    bad = [n for n, t in tensors.items() if not torch.isfinite(t).all()]
    if bad:
        raise AdapterError(problem("save", f"NaN or Inf in {bad[0]}", remedy="Train again with a smaller lr."))
    if basis or stores_basis(handle.variant, handle.cfg):
        for name, site in handle.sites.items():
            tensors |= {f"{name}.{k}": t.detach().cpu() for k, t in basis_of(site).items()}
    metadata = {
        "format": FORMAT,
        "format_version": VERSION,
        "variant": handle.variant.name,
        "base_model": str(getattr(getattr(model, "config", None), "_name_or_path", "")),
        "tensors_sha256": tensors_sha256(tensors),
        "config": json.dumps(config_fields(handle.cfg)),
        "layers": json.dumps({n: _layer_record(site) for n, site in handle.sites.items()}, separators=(",", ":")),
    }
    return _write(Path(path), tensors, metadata)


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> int:
    with atomic_file(path) as temporary:  # a kill leaves the old file or the new one
        save_file(tensors, temporary, metadata=metadata)
    return path.stat().st_size


def stores_basis(variant: type[Variant], cfg: Config) -> bool:
    """Whether the basis depends on calibration data, and so cannot be computed again from the weight alone."""
    return variant.calibration(cfg) is Calibration.required


def basis_of(site: Variant) -> dict[str, Tensor]:
    """The site's frozen tensors by name (`basis_U`, …)."""
    return {k: t for k, t in site.layer.named_buffers(recurse=False) if k.startswith("basis_")}


def config_fields(cfg: Config) -> dict[str, Any]:
    """The config as JSON values."""
    return {k: v.value if isinstance(v, Enum) else v for k, v in dataclasses.asdict(cfg).items()}


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}\n".encode())
        digest.update(t.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _layer_record(site: Variant) -> dict[str, Any]:
    weight = dense_weight(site.layer)
    probes, norm = bilinear_probes(site, weight)
    dtypes = {str(t.dtype).removeprefix("torch.") for t in basis_of(site).values() if t.dim() > 1}
    return {
        "weight_sha256": values_sha256(weight),
        "dtype": min(dtypes, default=None),
        "norm": float(f"{norm:.9g}"),
        "probes": [float(f"{t:.9g}") for t in probes.tolist()],
    }


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
    y = site.forward(x, y) if type(site).forward is not Variant.forward else y
    t = (a * (y - b @ W.T)).sum(1)
    return t, float(t.square().mean().sqrt())


# -- loading -----------------------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A file's contents, checked for everything that can be checked without a model."""

    variant: type[Variant]
    cfg: Config
    tensors: dict[str, Tensor]
    layers: dict[str, dict[str, Any]]
    base_model: str


def load(model: nn.Module, path: Path_, *, strict: bool = True, cache_dir: Path_ | None = None) -> Attachment:
    """Attaches the adapter in `path` to `model`, after checking the file and that the base weights are the same.

    strict=False accepts another base model (a QLoRA adapter on the unquantized weights, say) with a warning, for
    variants without a basis. Raises AdapterError, naming the layer and the remedy, and leaves the model unchanged.
    """
    file = read_checkpoint(path)
    where = str(path)
    if not variant_has_sites(file.variant):
        bases: dict[str, dict[str, Tensor]] = {}
        expected = {n: tuple(p.shape) for n, p in model.named_parameters()} if file.variant.trains_base else {}
        _check_tensors(where, file.tensors, expected)
    else:
        layers = select_targets(model, file.cfg)
        bases = _check_layers(where, file, layers, strict)
    given = bases or None
    handle = attach(model, file.cfg, seed=0, cache_dir=cache_dir, _bases=given if given is not None else {})
    try:
        with torch.no_grad():
            for name, p in handle.trainable().items():
                p.copy_(file.tensors[name])
        for site in handle.sites.values():
            site.drop_cache()
        if strict:
            _check_function(where, file, handle)
    except BaseException:
        detach(model)
        raise
    return handle


def read_checkpoint(path: Path_) -> Checkpoint:
    """Reads and checks a file without a model. Raises AdapterError for anything that is not a sound v1 checkpoint."""
    where = str(path)
    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            tensors = {n: f.get_tensor(n) for n in f.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise AdapterError(problem(where, "no such file")) from None
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, UnicodeDecodeError) as error:
        raise AdapterError(problem(where, f"not a readable safetensors file ({error})")) from None
    if metadata.get("format") != FORMAT:
        raise AdapterError(
            problem(
                where, "not an adapter checkpoint of this library", got=metadata.get("format"), expected=repr(FORMAT)
            )
        )
    if metadata.get("format_version") != VERSION:
        got = metadata.get("format_version")
        raise AdapterError(
            problem(where, "unknown format version", got=got, expected=repr(VERSION), remedy="Update the library.")
        )
    variant = VARIANTS.get(metadata.get("variant", ""))
    if variant is None:
        raise AdapterError(problem(where, "unknown variant", got=metadata.get("variant"), expected=", ".join(VARIANTS)))
    try:
        cfg = variant.Config(**json.loads(metadata["config"]))
        layers = json.loads(metadata["layers"])
        _check_schema(layers)
    except (KeyError, TypeError, ValueError, AdapterError) as error:
        raise AdapterError(problem(where, f"broken metadata ({error})")) from None
    if tensors_sha256(tensors) != metadata.get("tensors_sha256"):
        raise AdapterError(
            problem(
                where,
                "the tensors' bytes do not match their recorded SHA-256",
                remedy="The file was changed or damaged; save it again.",
            )
        )
    return Checkpoint(variant, cfg, tensors, layers, metadata.get("base_model", ""))


def _check_schema(layers: Any) -> None:
    for name, record in layers.items():
        numbers = [record["norm"], *record["probes"]]
        sound = isinstance(record["weight_sha256"], str) and len(record["probes"]) == PROBES
        if not sound or not all(isinstance(t, (int, float)) for t in numbers):
            raise ValueError(f"layer {name}")


def _check_tensors(where: str, tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]]) -> None:
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        what = f"missing tensor {missing[0]}" if missing else f"unknown tensor {unknown[0]}"
        raise AdapterError(problem(where, what, remedy="Load it on the model it was trained on."))
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise AdapterError(
                problem(where, f"wrong shape of {name}", got=tuple(tensors[name].shape), expected=str(shape))
            )
        if not tensors[name].is_floating_point() or not torch.isfinite(tensors[name]).all():
            raise AdapterError(problem(where, f"NaN, Inf or no floating-point numbers in {name}"))


def _check_layers(
    where: str, file: Checkpoint, layers: dict[str, nn.Linear], strict: bool
) -> dict[str, dict[str, Tensor]]:
    """Names, shapes and base weights; returns the stored bases (empty when they are to be computed)."""
    if set(file.layers) != set(layers):
        odd = sorted(set(file.layers) ^ set(layers))[0]
        raise AdapterError(
            problem(
                where,
                f"layer {odd} is not in both the file and the model",
                remedy="Load it on the model it was trained on.",
            )
        )
    stored = {n: t for n, t in file.tensors.items() if n.rsplit(".", 1)[-1].startswith("basis_")}
    expected: dict[str, tuple[int, ...]] = {}
    for name, layer in layers.items():
        o, i = layer_shape(layer)
        shapes = file.variant.shapes(layer_config(file.cfg, o, i), o, i)
        expected |= {f"{name}.{k}": s for k, s in shapes.items()}
    _check_tensors(where, {n: t for n, t in file.tensors.items() if n not in stored}, expected)
    changed = [
        n for n, layer in layers.items() if values_sha256(dense_weight(layer)) != file.layers[n]["weight_sha256"]
    ]
    has_basis = file.variant.basis is not Variant.basis
    if changed and (strict or (has_basis and not stored)):
        remedy = f"It was trained on {file.base_model or 'another model'}; load it there"
        remedy += "." if has_basis and not stored else ", or pass strict=False to accept another base."
        raise AdapterError(
            problem(where, f"the base weight of {changed[0]} is not the one this adapter was trained on", remedy=remedy)
        )
    if changed:
        log.warning("%s: base weights differ in %d of %d layers (strict=False)", where, len(changed), len(layers))
    bases: dict[str, dict[str, Tensor]] = {}
    for name, tensor in stored.items():
        layer_name, key = name.rsplit(".", 1)
        bases.setdefault(layer_name, {})[key] = tensor
    return bases


def _check_function(where: str, file: Checkpoint, handle: Attachment) -> None:
    """rms(t − t′) ≤ 1e-5·‖ΔW‖ on every layer, so that a basis computed again is the one that was trained."""
    for name, site in handle.sites.items():
        record = file.layers[name]
        probes, _ = bilinear_probes(site, dense_weight(site.layer))
        recorded = torch.tensor(record["probes"], dtype=torch.float64, device=probes.device)
        error = float((probes - recorded).square().mean().sqrt())
        relative = error / max(record["norm"], 1e-300)
        if not error <= PROBE_TOLERANCE * record["norm"]:
            raise AdapterError(
                problem(
                    where,
                    f"layer {name} computes another function than the one saved (relative error {relative:.1e})",
                    remedy="Save with basis=True where it was trained; the file is then self-contained.",
                )
            )
