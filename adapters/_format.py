"""Checkpoint format v1 as a file: what is in it, and everything that can be checked without a model.

The file's bytes are a function of its contents: safetensors writes several metadata keys in any order, so there is one,
`adapters`, a JSON object with sorted keys:
    format_version           "1"
    variant, base_model      variant's name; the model's own id, for people
    tensors_version          of the variant's trainable tensors (absent: 1); raised when their meaning changes
    whole_basis              true when no part of a basis has to be computed from the weight
    tensors_sha256           over names, dtypes, shapes and bytes of all tensors in the file
    config                   the Config's fields
    layers                   per adapted layer: weight_sha256 of the dense base weight's values; dtype of its basis;
                             norm ‖ΔW‖ and probes, 16 seeded bilinear forms aᵀΔWb in fp64; config, fields that differ
                             from the common one (a redistributed rank); casts, dtypes that the weight went through
                             while the adapter was attached
    calibration_sha256       of the calibration batches, where some were used
Older files hold these as metadata keys of their own beside `format` = "adapters"; they are read as well.

A file comes from somebody else: nothing in it is unpickled, executed or trusted before it is checked.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from adapters._bases import tensors_sha256
from adapters._contract import DTYPES, Config, Variant
from adapters._errors import AdapterError, problem
from adapters._files import atomic_file
from adapters._patterns import harmless
from adapters._registry import VARIANTS

FORMAT, VERSION = "adapters", "1"
PROBES = 16
MAX_HEADER = 1 << 25  # bytes; 56 layers take 0.05 MB, `full` on 10,000 tensors takes 1.5 MB
COMMON = frozenset({"targets", "roles", "layers", "dtype", "coeff"})  # fields that are the same on every layer
Path_ = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A file's contents, checked for everything that can be checked without a model."""

    variant: type[Variant]
    cfg: Config
    tensors: dict[str, Tensor]
    layers: dict[str, dict[str, Any]]
    tensors_version: int
    base_model: str
    calibration_sha256: str | None
    whole_basis: bool  # no part of a basis is computed from the weight


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> int:
    """Writes a safetensors file atomically and returns its size in bytes; AdapterError where that is impossible."""
    try:
        with atomic_file(path) as temporary:  # a kill leaves the old file or the new one
            save_file(tensors, temporary, metadata=metadata)
        return path.stat().st_size
    except OSError as error:
        raise AdapterError(problem(str(path), f"cannot write ({error.strerror or error})")) from None


def read_tensors(path: Path_) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises AdapterError for anything else; never unpickles."""
    where = str(path)
    try:
        if not os.path.isfile(path):  # a pipe or a device would block
            raise AdapterError(problem(where, "no such file" if not os.path.exists(path) else "not a regular file"))
        with open(path, "rb") as raw:
            header = int.from_bytes(raw.read(8), "little")
        if header > MAX_HEADER:
            what = f"not a safetensors file (a header of {header} bytes; at most {MAX_HEADER} are read)"
            raise AdapterError(problem(where, what))
        with safe_open(path, framework="pt") as f:
            names = list(f.keys())
            return {n: f.get_tensor(n) for n in names}, f.metadata() or {}
    except AdapterError:
        raise
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError) as error:
        raise AdapterError(problem(where, f"not a readable safetensors file ({error})")) from None


def write_checkpoint(path: Path, tensors: dict[str, Tensor], record: dict[str, Any]) -> int:
    """Writes tensors and record (see the module's docstring) atomically; returns the file's size in bytes."""
    record = record | {"format_version": VERSION, "tensors_sha256": tensors_sha256(tensors)}
    return write_tensors(path, tensors, {FORMAT: json.dumps(record, sort_keys=True, separators=(",", ":"))})


def read_checkpoint(path: Path_) -> Checkpoint:
    """Reads and checks a file without a model. Raises AdapterError for anything that is not a sound v1 checkpoint."""
    where = str(path)
    tensors, metadata = read_tensors(path)
    record = _record(where, metadata)
    variant = _variant(where, record)
    for name, tensor in tensors.items():
        if not variant.trains_base and tensor.dtype not in (*DTYPES.values(), torch.int64):
            raise AdapterError(problem(where, f"wrong dtype of {name}", got=tensor.dtype, expected=", ".join(DTYPES)))
    if tensors_sha256(tensors) != record.get("tensors_sha256"):
        what = "the tensors' bytes do not match their recorded SHA-256"
        raise AdapterError(problem(where, what, remedy="The file was changed or damaged; save it again."))
    try:
        cfg = variant.Config(**record["config"])
        _check_selection(cfg)
        _check_layers(record["layers"])
        whole, base_model, calibration = record["whole_basis"], record["base_model"], record.get("calibration_sha256")
        if not (type(whole) is bool and isinstance(base_model, str) and isinstance(calibration, str | None)):
            raise ValueError("whole_basis, base_model or calibration_sha256")
    except (KeyError, TypeError, ValueError, RecursionError, AttributeError) as error:  # AdapterError is a ValueError
        raise AdapterError(problem(where, f"broken metadata ({error})")) from None
    version = record.get("tensors_version", 1)
    return Checkpoint(variant, cfg, tensors, record["layers"], version, base_model, calibration, whole)


def _record(where: str, metadata: dict[str, str]) -> dict[str, Any]:
    """The record in a file's metadata, of a known format version."""
    if FORMAT not in metadata and metadata.get("format") != FORMAT:
        what, remedy = "not an adapter checkpoint of this library", "PEFT's folders are read by import_peft."
        raise AdapterError(problem(where, what, got=metadata.get("format"), expected=repr(FORMAT), remedy=remedy))
    try:
        if FORMAT in metadata:
            record = dict(json.loads(metadata[FORMAT]))
        else:  # an older file
            record = metadata | {k: json.loads(metadata[k]) for k in ("config", "layers", "whole_basis")}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise AdapterError(problem(where, f"broken metadata ({error})")) from None
    if (got := record.get("format_version")) != VERSION:
        remedy = "Update the library."
        raise AdapterError(problem(where, "unknown format version", got=got, expected=repr(VERSION), remedy=remedy))
    return record


def _variant(where: str, record: dict[str, Any]) -> type[Variant]:
    """The record's variant, if its tensors mean what a known version says."""
    name, version = record.get("variant"), record.get("tensors_version", 1)
    variant = VARIANTS.get(name) if isinstance(name, str) else None
    if variant is None:
        raise AdapterError(problem(where, "unknown variant", got=name, expected=", ".join(VARIANTS)))
    if type(version) is not int or not 1 <= version <= variant.tensors_version:
        expected = f"1 to {variant.tensors_version}"
        what, remedy = f"unknown version of {name}'s tensors", "Update the library."
        raise AdapterError(problem(where, what, got=version, expected=expected, remedy=remedy))
    return variant


def _check_selection(cfg: Config) -> None:
    patterns = (cfg.targets,) if isinstance(cfg.targets, str) else cfg.targets
    if not isinstance(patterns, tuple) or not all(isinstance(p, str) and harmless(p) for p in patterns):
        raise ValueError(f"targets {cfg.targets!r}")
    indices = (cfg.layers,) if cfg.layers is None or type(cfg.layers) is int else cfg.layers
    if not isinstance(indices, tuple) or not all(n is None or type(n) is int for n in indices):
        raise ValueError(f"layers {cfg.layers!r}")


def _check_layers(layers: Any) -> None:
    for name, record in layers.items():
        numbers = [record["norm"], *record["probes"]]
        sound = isinstance(record["weight_sha256"], str) and len(numbers) == PROBES + 1
        sound = sound and isinstance(record["dtype"], str | None)
        casts = record.get("casts", [])
        sound = sound and isinstance(casts, list) and len(casts) <= 9 and all(c in DTYPES for c in casts)
        sound = sound and all(type(t) in (int, float) and abs(t) < 1e300 for t in numbers)  # false for NaN
        own = record.get("config", {})
        if not sound or not isinstance(own, dict) or COMMON & own.keys():
            raise ValueError(f"layer {name}")
