"""A new variant brings its own PEFT format: tensors kept once per file, frozen tensors, indices. PEFT is the oracle.

The two variants are VeRA and SHiRA in short. Nothing but a Variant and a Kind is written for each.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

import adapters as ad
from adapters import _peft
from adapters._contract import Config, Shape, Variant, bounded
from adapters._peft_kinds import FILE, Kind, Tensors
from tests.adapters.test_export import (
    QV,
    ROUNDING,
    error,
    logits,
    peft,
    qwen,
    same,
    through_peft,
    trained_by_peft,
    untouched,
)


# -- tensors of the whole file -----------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class SharedConfig(Config):
    r: int = bounded(4, lo=1)


class Shared(Variant):
    """y' = y + b∘B(d∘Ax), where A and B are cut from two matrices of the whole model (VeRA, arXiv 2310.11454)."""

    Config = SharedConfig
    name = "shared"

    @classmethod
    def shapes(cls, cfg: SharedConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_b": (o,), "lora_d": (cfg.r,)}

    def basis(self, W: Tensor, moment: Tensor | None) -> Tensors:
        return {k: torch.ones(shape) for k, shape in self.stored_basis(self.cfg, False, self.o, self.i).items()}

    @classmethod
    def stored_basis(cls, cfg: SharedConfig, calibrated: bool, o: int, i: int) -> dict[str, Shape]:
        return {"basis_A": (cfg.r, i), "basis_B": (o, cfg.r)}

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        b, d, A, B = (t.to(x.dtype) for t in (self.lora_b, self.lora_d, self.basis_A, self.basis_B))
        return y + b * F.linear(d * F.linear(x, A), B)


def write_shared(sites: Any) -> dict[str, Tensors]:
    widest, tallest = max(sites.values(), key=lambda s: s.i), max(sites.values(), key=lambda s: s.o)
    layers = {n: {"vera_lambda_b": site.lora_b, "vera_lambda_d": site.lora_d} for n, site in sites.items()}
    return layers | {FILE: {"vera_A": widest.basis_A, "vera_B": tallest.basis_B}}


SHARED = Kind(
    peft_type="VERA",
    tensors=("vera_lambda_b", "vera_lambda_d"),
    of_file="vera_[AB]",
    reads=("r", "save_projection"),
    ignores=("d_initial", "init_weights"),
    write=write_shared,
    fields=lambda cfg, ranks, targets: {"r": cfg.r, "save_projection": True},
    settings=lambda config: {"r": config["r"]},
    basis=lambda cfg, t, o, i: {"basis_A": t["vera_A"][:, :i], "basis_B": t["vera_B"][:o]},
    read=lambda site, t: {"lora_b": t["vera_lambda_b"], "lora_d": t["vera_lambda_d"]},
)


# -- one tensor of the file for each layer -----------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class NumberedConfig(Config):
    u: int = bounded(4, lo=1)


class Numbered(Variant):
    """y' = y + B(Σⱼ vⱼPⱼ)Ax, only v trains; PEFT keeps the layers' v in a list (TinyLoRA, arXiv 2602.04118)."""

    Config = NumberedConfig
    name = "numbered"

    @classmethod
    def shapes(cls, cfg: NumberedConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_v": (cfg.u,)}

    def basis(self, W: Tensor, moment: Tensor | None) -> Tensors:
        return {k: torch.ones(shape) for k, shape in self.stored_basis(self.cfg, False, self.o, self.i).items()}

    @classmethod
    def stored_basis(cls, cfg: NumberedConfig, calibrated: bool, o: int, i: int) -> dict[str, Shape]:
        return {"basis_A": (2, i), "basis_B": (o, 2), "basis_P": (cfg.u, 2, 2)}

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        v, A, B, P = (t.to(x.dtype) for t in (self.lora_v, self.basis_A, self.basis_B, self.basis_P))
        return y + F.linear(F.linear(F.linear(x, A), torch.einsum("u,ujk->jk", v, P)), B)


def write_numbered(sites: Any) -> dict[str, Tensors]:
    layers = {n: {f"tinylora_{k}": getattr(site, f"basis_{k}") for k in "ABP"} for n, site in sites.items()}
    return layers | {FILE: {f"tinylora_v.{n}": site.lora_v for n, site in enumerate(sites.values())}}


NUMBERED = Kind(
    peft_type="TINYLORA",
    tensors=("tinylora_A", "tinylora_B", "tinylora_P"),
    of_file=r"tinylora_v\.\d+",
    reads=("r", "u", "save_projection"),
    ignores=("init_v_bound", "init_weights", "projection_seed"),
    write=write_numbered,
    fields=lambda cfg, ranks, targets: {"r": 2, "u": cfg.u, "weight_tying": 0.0, "save_projection": True},
    settings=lambda config: {"u": config["u"]},
    spread=lambda layers, of_file, config: {
        name: tensors | {"v": of_file[f"tinylora_v.{n}"]} for n, (name, tensors) in enumerate(layers.items())
    },
    basis=lambda cfg, t, o, i: {f"basis_{k}": t[f"tinylora_{k}"] for k in "ABP"},
    read=lambda site, t: {"lora_v": t["v"]},
)


# -- indices -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class SparseConfig(Config):
    r: int = bounded(4, lo=1)


class Sparse(Variant):
    """y' = y + Δx, where Δ has r(o + i) entries at fixed places (SHiRA, arXiv 2406.13175)."""

    Config = SparseConfig
    name = "sparse"
    exact_basis = frozenset({"basis_place"})

    @classmethod
    def shapes(cls, cfg: SparseConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_value": (cfg.r * (o + i),)}

    def basis(self, W: Tensor, moment: Tensor | None) -> Tensors:
        place = torch.arange(self.cfg.r * (self.o + self.i))
        return {"basis_place": torch.stack((place // self.i, place % self.i))}

    @classmethod
    def stored_basis(cls, cfg: SparseConfig, calibrated: bool, o: int, i: int) -> dict[str, Shape]:
        return {"basis_place": (2, cfg.r * (o + i))}

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        delta = torch.zeros(self.o, self.i).to(x).index_put(tuple(self.basis_place), self.lora_value.to(x))
        return y + F.linear(x, delta)


SPARSE = Kind(
    peft_type="SHIRA",
    tensors=("shira_weight", "shira_indices"),
    integers=("shira_indices",),
    reads=("r",),
    ignores=("init_weights", "mask_type", "random_seed"),
    write=lambda sites: {
        n: {"shira_weight": site.lora_value, "shira_indices": site.basis_place.int()} for n, site in sites.items()
    },
    fields=lambda cfg, ranks, targets: {"r": cfg.r, "mask_type": "random"},
    settings=lambda config: {"r": config["r"]},
    basis=lambda cfg, t, o, i: {"basis_place": t["shira_indices"].long()},
    read=lambda site, t: {"lora_value": t["shira_weight"]},
)
TRAINED = {
    "shared": (Shared, SHARED, peft.VeraConfig(r=4, target_modules=QV)),
    "numbered": (Numbered, NUMBERED, peft.TinyLoraConfig(r=2, u=4, target_modules=QV)),
    "sparse": (Sparse, SPARSE, peft.ShiraConfig(r=2, target_modules=QV, random_seed=3)),
}


@pytest.fixture(params=list(TRAINED))
def kind(request, monkeypatch):
    """The name of a variant that is registered for this test, alone among the kinds."""
    variant, kind, _ = TRAINED[request.param]
    monkeypatch.setitem(ad.VARIANTS, request.param, variant)
    monkeypatch.setattr(_peft, "KINDS", {request.param: kind})
    return request.param


def test_peft_folders_of_a_new_kind_go_both_ways(kind, tmp_path):
    """Trained by PEFT = imported here = saved and loaded here = exported and loaded by PEFT."""
    expected = trained_by_peft(qwen, TRAINED[kind][2], tmp_path)
    model = qwen()
    before = untouched(model)
    assert error(expected, logits(model)) > 0.01
    assert ad.import_peft(model, tmp_path).variant.name == kind
    assert error(logits(model), expected) < ROUNDING
    ad.save(model, tmp_path / "own.safetensors")
    ad.export_peft(model, tmp_path / "back")
    ad.detach(model)
    assert same(before, untouched(model))
    ad.load(model, tmp_path / "own.safetensors")
    assert error(logits(model), expected) < ROUNDING
    assert error(through_peft(qwen, tmp_path / "back"), expected) < ROUNDING


def test_damaged_tensors_of_a_new_kind_are_refused(kind, tmp_path):
    """A frozen tensor or an index of the wrong dtype, not finite, or missing: one AdapterError, an unchanged model."""
    trained_by_peft(qwen, TRAINED[kind][2], tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    sound = load_file(file)
    damaged = next(k for k in sound if k.endswith(("vera_A", "tinylora_v.0", "shira_indices")))
    layered = TRAINED[kind][1].tensors[0]
    other = sound[damaged].long() if sound[damaged].is_floating_point() else sound[damaged].float()
    for change, message in (
        ({damaged: other}, f"wrong dtype of {damaged}, got torch"),
        ({damaged: torch.full_like(sound[damaged].float(), float("nan"))}, f"(NaN or Inf in|wrong dtype of) {damaged}"),
        ({damaged: None}, "KeyError|wrong tensors of layer"),
        ({damaged: sound[damaged][..., :3].clone()}, "wrong shape of (a frozen tensor|layer)"),
        ({"base_model.xxx": sound[damaged].clone()}, "unsupported tensor base_model.xxx"),
        ({f"base_model.model..{layered}": sound[damaged].clone()}, "unsupported tensor base_model.model.."),
    ):
        tensors = {k: t for k, t in (sound | change).items() if t is not None}
        save_file(tensors, file)
        model = qwen()
        before = untouched(model)
        with pytest.raises(ad.AdapterError, match=message):
            ad.import_peft(model, tmp_path)
        assert same(before, untouched(model))


def test_every_kind_is_found_by_its_variants_name():
    """A file `_peft_<name>.py` of no variant would never be read."""
    files = {p.stem.removeprefix("_peft_") for p in Path(ad.__file__).parent.glob("_peft_*.py")} - {"kinds"}
    assert files == _peft.KINDS.keys()


def test_nothing_that_computes_imports_the_exchange():
    """So a change to adapters/_peft*.py can be left out of a run's code hash."""
    for path in Path(ad.__file__).parent.glob("*.py"):
        if path.name.startswith("_peft") or path.name == "__init__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in (*names, *modules) if "_peft" in n], path
