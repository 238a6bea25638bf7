"""PEFT's adapter folders, written and read without importing PEFT (0.21 and whatever keeps its file format).

A folder holds adapter_config.json and adapter_model.safetensors, with tensors `base_model.model.<module>.<tensor>`.
`_peft_kinds.KINDS` says which of PEFT's kinds computes the same function as which variant. Every other variant that is
linear in x goes out as plain LoRA, P and Q of ΔW = PQ with the scale folded in (lora_alpha = r); and returns as LoRA.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapters._bases import atomic_file
from adapters._checkpoint import basis_of, exact_names
from adapters._contract import DTYPES, Config, Variant
from adapters._errors import AdapterError, problem
from adapters._format import Path_, harmless, read_tensors, write_tensors
from adapters._hooks import Attachment, Restored, attach, attachment, detach
from adapters._peft_kinds import KINDS, Kind, Tensors
from adapters._registry import VARIANTS
from adapters._targets import PRESETS, select_targets
from adapters._weights import is_linear, layer_shape
from adapters._wrappers import bare, named_modules

CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."


# -- out ---------------------------------------------------------------------------------------------------------------
@torch.no_grad()
def export_peft(model: nn.Module, folder: Path_) -> int:
    """Writes the attached adapter, as it is now, for `peft.PeftModel.from_pretrained(base, folder)`; returns bytes.

    Values are worked out in fp64 and written in fp32. Raises AdapterError for variants that PEFT has no form for.
    """
    handle = attachment(model)
    model, name = handle.model, handle.variant.name
    if not handle.sites:
        raise AdapterError(problem(name, "no adapter to export", remedy="Use the model's own save_pretrained."))
    kind = KINDS.get(name, KINDS["lora"])
    kind = kind if kind.can_write(handle.cfg) else KINDS["lora"]
    layers = {n: kind.write(_in_fp64(site)) for n, site in handle.sites.items()}
    ranks = {n: kind.rank(t) for n, t in layers.items()} if kind.rank is not None else {}
    layers = {n: kind.padded(t, max(ranks.values(), default=0)) for n, t in layers.items()}
    tensors = {f"{PREFIX}{n}.{k}": t.float().contiguous() for n, ts in layers.items() for k, t in ts.items()}
    for key, t in tensors.items():
        if not t.isfinite().all():
            raise AdapterError(problem("export_peft", f"NaN or Inf in {key}", remedy="Train again with a smaller lr."))
    targets = _target_modules(handle.model, handle.sites)
    config = {
        "peft_type": kind.peft_type,
        "task_type": "CAUSAL_LM" if type(model).__name__.endswith("ForCausalLM") else None,
        "base_model_name_or_path": getattr(getattr(model, "config", None), "_name_or_path", "") or None,
        "inference_mode": True,
        "target_modules": targets,
        "modules_to_save": None,
    }
    config |= dict(kind.flags) | kind.fields(handle.cfg, ranks, targets)
    return _write_folder(Path(folder), tensors, config)


def _write_folder(folder: Path, tensors: Tensors, config: dict[str, Any]) -> int:
    """The config goes first and comes last: a kill in between leaves a folder that nobody takes for an adapter."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).unlink(missing_ok=True)
        size = write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
        with atomic_file(folder / CONFIG) as temporary:
            temporary.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise AdapterError(problem(str(folder), f"cannot write ({error.strerror or error})")) from None
    return size


def _in_fp64(site: Variant) -> Variant:
    """The same site on a layer that has no weight, its tensors in fp64."""
    layer = nn.Linear(site.i, site.o, bias=False, device="meta")
    for name, t in (dict(site.parameters()) | basis_of(site)).items():
        layer.register_buffer(name, t.detach().to("cpu", torch.float64 if t.is_floating_point() else t.dtype))
    twin = type(site)(layer, site.cfg, site.o, site.i)
    twin.coeff = site.coeff
    return twin


def _target_modules(model: nn.Module, names: Iterable[str]) -> list[str] | str:
    """The shortest form of `target_modules` that selects exactly these: last names, whole names, a regex."""
    wanted = set(names)
    for suffixes in (sorted({n.rpartition(".")[2] for n in wanted}), sorted(wanted)):
        if {n for n, _ in named_modules(model) if any(f".{n}".endswith(f".{s}") for s in suffixes)} == wanted:
            return suffixes
    return "|".join(re.escape(n) for n in sorted(wanted))


# -- in ----------------------------------------------------------------------------------------------------------------
# Fields that change nothing once the weights are trained, or that the tensors' names and shapes say again.
IGNORED = {
    *("peft_type", "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode"),
    *("peft_version", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("feedforward_modules", "init_weights", "init_ia3_weights", "lora_dropout", "module_dropout", "megatron_core"),
    *("qalora_group_size", "eva_config", "runtime_config", "lambda_pattern"),
}
READ = {
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "delora_lambda"),
    *("variant", "group_size"),
}
# Other initial values change the base weight as well, which the file does not say.
INITIAL = (True, False, "gaussian", "eva", "orthogonal")


def import_peft(model: nn.Module, folder: Path_) -> Attachment:
    """Attaches PEFT's adapter in `folder` (LoRA, rsLoRA, DoRA, IA3, HRA, DeLoRA or RoAd) to `model`.

    The layers are those the file has tensors for. Raises AdapterError, and leaves the model as it was, for whatever
    this library does not compute exactly as PEFT does: the message names the field. PEFT's files do not say which base
    weights they were trained on.
    """
    where, path, model = str(folder), Path(folder), bare(model)
    config = _read_config(path)
    layers = _layer_tensors(where, path)
    name, kind = _kind_of(where, config, layers)
    linear = {n: m for n, m in named_modules(model) if is_linear(m)}
    if odd := sorted(layers.keys() - linear.keys()):
        raise AdapterError(problem(where, f"{odd[0]} is not a linear layer of this model"))
    try:
        cfg = VARIANTS[name].Config(targets=_own_targets(model, layers.keys()), **kind.settings(config))
        cfgs = {n: _layer_config(cfg, kind, config, n, t) for n, t in layers.items()}
        for n, own in cfgs.items():
            VARIANTS[name].shapes(own, *layer_shape(linear[n]))  # raises where the config does not fit
    except (LookupError, TypeError, ValueError, AttributeError, re.error) as error:
        raise AdapterError(problem(where, f"unusable {CONFIG} ({type(error).__name__}: {error})")) from None
    handle = attach(model, cfg, seed=0, _restored=Restored(cfgs, {}, None))
    try:
        for n, site in handle.sites.items():
            _fill(where, n, site, kind, layers[n])
    except BaseException:
        detach(model)
        raise
    handle.clamped.clear()  # ranks are the file's
    return handle


def _read_config(folder: Path) -> dict[str, Any]:
    where, others = str(folder), sorted(p.parent.name for p in folder.glob(f"*/{CONFIG}"))
    others = [n for n in others if not n.startswith("checkpoint-")]  # transformers.Trainer's
    if others:
        remedy = "Give a folder with one adapter: save_pretrained(folder, selected_adapters=[one of them])."
        raise AdapterError(problem(where, f"several adapters ({', '.join(others)} beside the default)", remedy=remedy))
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(problem(where, f"no readable {CONFIG} ({error})")) from None
    if not isinstance(config, dict):
        raise AdapterError(problem(where, f"{CONFIG} is no object"))
    kinds = list(dict.fromkeys(k.peft_type for k in KINDS.values()))
    if config.get("peft_type") not in kinds:
        raise AdapterError(
            problem(where, "unsupported peft_type", got=config.get("peft_type"), expected=", ".join(kinds))
        )
    initial = config.pop("init_lora_weights", True)
    if initial not in INITIAL:
        remedy = "Save it in PEFT with path_initial_model_for_weight_conversion."
        raise AdapterError(problem(where, "unsupported init_lora_weights", got=initial, remedy=remedy))
    for key, value in config.items():
        if key not in IGNORED | READ and value not in (None, False, "none", "", [], {}):
            raise AdapterError(problem(where, f"unsupported {key}", got=value))
    return config


def _layer_tensors(where: str, folder: Path) -> dict[str, Tensors]:
    """Module name → PEFT's name of a tensor → tensor."""
    if not (folder / WEIGHTS).exists() and (folder / "adapter_model.bin").exists():
        remedy = "Save it again with safetensors: nothing is unpickled here."
        raise AdapterError(problem(where, "adapter_model.bin is a pickle", remedy=remedy))
    layers: dict[str, Tensors] = {}
    known = {name for kind in KINDS.values() for name in kind.tensors}
    for key, t in read_tensors(folder / WEIGHTS)[0].items():
        bare = key.removesuffix(".weight") if key.endswith("lora_magnitude_vector.weight") else key  # older PEFT
        name = next((k for k in known if bare.startswith(PREFIX) and bare.endswith(f".{k}")), None)
        if name is None:
            raise AdapterError(problem(where, f"unsupported tensor {key}"))
        if t.dtype not in DTYPES.values() or not t.isfinite().all():
            raise AdapterError(problem(where, f"NaN, Inf or no floating-point numbers in {key}"))
        layers.setdefault(bare.removeprefix(PREFIX).removesuffix(f".{name}"), {})[name] = t
    if not layers:
        raise AdapterError(problem(where, "no tensors"))
    return layers


def _kind_of(where: str, config: dict[str, Any], layers: dict[str, Tensors]) -> tuple[str, Kind]:
    """The variant and kind that all layers agree on."""
    kinds = {
        n: k
        for n, k in KINDS.items()
        if k.peft_type == config["peft_type"] and all(config.get(f, False) is v for f, v in k.flags.items())
    }
    if not kinds:
        raise AdapterError(problem(where, "unusable use_dora", got=config.get("use_dora"), expected="true or false"))
    for layer, tensors in layers.items():
        optional = {"delora_w_norm"}
        named = {n: k for n, k in kinds.items() if set(k.tensors) - optional == tensors.keys() - optional}
        kinds, before = {n: k for n, k in named.items() if k.fits(tensors)}, kinds
        if not kinds and len(before) == 1 and "ia3_l" in tensors:
            remedy = "A variant here gates inputs or outputs, not both."
            raise AdapterError(problem(where, "unsupported feedforward_modules beside other targets", remedy=remedy))
        if not kinds:
            got = {k: tuple(t.shape) for k, t in tensors.items()}
            expected = " or ".join(", ".join(k.tensors) for k in before.values())
            raise AdapterError(problem(where, f"wrong tensors of layer {layer}", got=got, expected=expected))
    return next(iter(kinds.items()))


def _own_targets(model: nn.Module, names: Iterable[str]) -> Any:
    """A preset or regex that selects exactly these layers."""
    last = "|".join(sorted({re.escape(n.rpartition(".")[2]) for n in names}))
    for targets in (*PRESETS, rf"(^|\.)({last})$"):
        try:
            matched = select_targets(model, Config(targets=targets))
        except AdapterError:  # no match
            continue
        if set(matched) == set(names):
            return targets
    return exact_names(names)


def _layer_config(cfg: Any, kind: Kind, config: dict[str, Any], layer: str, tensors: Tensors) -> Any:
    if kind.rank is None:
        return cfg
    own = {"r": _pattern(config, "rank_pattern", layer, cfg.r)}
    if (got := kind.rank(tensors)) != own["r"]:
        raise ValueError(f"layer {layer} has rank {got}, the config says {own['r']}")
    if config.get("alpha_pattern"):
        own["alpha"] = _pattern(config, "alpha_pattern", layer, cfg.alpha)
    return replace(cfg, **own)


def _pattern(config: dict[str, Any], key: str, layer: str, default: Any) -> Any:
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
    except RuntimeError as error:
        raise AdapterError(problem(where, f"{wrong} ({error})")) from None
    for name, p in site.parameters().items():
        if values[name].shape != p.shape:
            raise AdapterError(problem(where, wrong, got=tuple(values[name].shape), expected=str(tuple(p.shape))))
        p.copy_(values[name])
    site.drop_cache()
