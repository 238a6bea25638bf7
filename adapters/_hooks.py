"""Attach and detach: the only module that registers hooks, parameters or buffers on somebody's model.

attach → hooks and tensors appear on the matched layers, everything else is frozen.
detach → the model is as it was, bit for bit: no hook, no state-dict key, no changed requires_grad.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from adapters._attachment import HANDLE, Attachment, attachment, reset_compiled
from adapters._bases import BasisCache
from adapters._calibration import Moments, calibration_sha256, second_moments
from adapters._contract import Calibration, Config, Variant
from adapters._errors import AdapterError, problem
from adapters._idle import FirstForward
from adapters._registry import checked_config, field_names, owners_of, variant_has_sites, variant_of
from adapters._site import MARK, InputHook, OutputHook, Shared, build, remove_attribute
from adapters._targets import fold, log_selection, select_targets
from adapters._together import Forwards, innermost
from adapters._weights import (
    Layer,
    compute_dtype,
    forbid_cpu_packing,
    is_linear,
    layer_shape,
    quantization,
    refuse_unloaded,
)
from adapters._wrappers import bare, named_modules

log = logging.getLogger("adapters")


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint brings to `attach`: each layer's config and stored basis tensors, the calibration's hash."""

    cfgs: dict[str, Any]
    bases: dict[str, dict[str, Tensor]]
    calibration_sha256: str | None


def attach(
    model: nn.Module,
    cfg: Config,
    *,
    calibration: Iterable[Any] | None = None,
    seed: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    _restored: Restored | None = None,
) -> Attachment:
    """Adapts every matched linear layer of `model` and freezes all other parameters.

    model: bare or in wrappers (torch.compile, DataParallel, DDP), which names do not show. calibration: batches of
    training inputs (a dict is model(**b), a tensor model(b)) for variants that read them. seed: of the initial values;
    None draws one from torch's generator. cache_dir: folder for SVD bases.
    Raises AdapterError, and leaves the model as it was, when something is attached already, no layer matches, a layer
    cannot be read, or a needed calibration is missing.
    """
    variant = variant_of(cfg)
    _refuse_second(model)
    if isinstance(model, DistributedDataParallel):
        log.warning("attach before wrapping in DistributedDataParallel: it only synchronizes what it saw when it began")
    layers = select_targets(bare(model), cfg) if variant_has_sites(variant) else {}
    refuse_unloaded(layers or (dict(named_modules(bare(model))) if variant.trains_base else {}))
    for name, layer in (layers or _linears(bare(model))).items():
        if quantization(layer) is not None and not variant.supports_quantized:
            raise AdapterError(
                problem(variant.name, f"cannot train a quantized base ({name})", remedy="Use quantization=none.")
            )
    seed = int(torch.randint(2**62, ()).item()) if seed is None else seed
    generator = torch.Generator().manual_seed(seed)
    handle = Attachment(model, cfg, variant)
    handle.basis_cache = BasisCache(cache_dir) if cache_dir is not None else None
    try:
        forbid_cpu_packing(handle.model)
        with torch.inference_mode(False), torch.no_grad():
            moments = None if _restored else _moments(handle, layers, calibration)
            for p in handle.model.parameters():
                if p.is_floating_point():
                    p.requires_grad_(variant.trains_base)
            cfgs = _layer_configs(handle, layers, moments, _restored)
            owners, shared = owners_of(variant, cfgs), Shared()
            for name, layer in layers.items():
                moment = None if moments is None else moments[name]
                site = variant(layer, cfgs[name], *layer_shape(layer))
                site.owner = handle.sites.get(owners[name], site)
                stored = _restored.bases.get(name) if _restored is not None else None
                dtype, cache = compute_dtype(handle.model, layer), handle.basis_cache
                options: Any = {"dtype": dtype, "stored": stored, "cache": cache, "shared": shared}
                build(site, generator, moment, handle.undo_steps, **options)
                handle.sites[name] = site
            for site in handle.sites.values():  # only now: reading a moment may have run the model
                _register(handle, site, site.layer)
        _finish(handle)
    except BaseException:
        handle.undo()
        raise
    return handle


def detach(model: nn.Module) -> None:
    """Restores `model` bit for bit, state dict (BatchNorm's statistics too) and requires_grad flags.

    What was added to the model since `attach`, or replaced in it, stays as it is. Raises AdapterError when nothing is
    attached.
    """
    attachment(model).detach()


def frozen(model: nn.Module) -> AbstractContextManager[None]:
    """`handle.frozen()` of what is attached to the model; a block that does nothing where nothing is."""
    handle: Attachment | None = getattr(bare(model), HANDLE, None)
    return nullcontext() if handle is None else handle.frozen()


def parameter_groups(model: nn.Module, *, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Optimizer groups: no weight decay where it would not pull to identity, lr multipliers of the variant applied."""
    handle = attachment(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in handle.trainable().items():
        tensor = name.rsplit(".", 1)[-1]
        decay = 0.0 if tensor in handle.variant.no_decay else weight_decay
        groups.setdefault((lr * handle.variant.lr_multipliers.get(tensor, 1.0), decay), []).append(p)
    return [{"params": ps, "lr": rate, "weight_decay": decay} for (rate, decay), ps in groups.items()]


# -- attaching ---------------------------------------------------------------------------------------------------------
def _linears(model: nn.Module) -> dict[str, Layer]:
    return {n: m for n, m in named_modules(model) if is_linear(m)}


def _refuse_second(model: nn.Module) -> None:
    model = bare(model)
    if hasattr(model, HANDLE) or any(hasattr(m, MARK) for m in model.modules()):
        raise AdapterError(problem(type(model).__name__, "an adapter is already attached", remedy="Detach it first."))


def _moments(handle: Attachment, layers: dict[str, Layer], batches: Any) -> Moments | None:
    variant, need = handle.variant, handle.variant.calibration(handle.cfg)
    if need is Calibration.required and batches is None:
        raise AdapterError(
            problem(variant.name, "needs calibration data", remedy="Call attach(model, cfg, calibration=batches).")
        )
    if batches is None:
        return None
    if need is Calibration.unused:
        log.warning("%s reads no calibration data; the batches are not used", variant.name)
        return None
    moments = second_moments(handle.model, layers, batches, centred=variant.centred(handle.cfg))
    handle.calibration_sha256 = calibration_sha256(moments.batches)
    return moments


def _layer_configs(
    handle: Attachment, layers: dict[str, Layer], moments: Moments | None, restored: Restored | None
) -> dict[str, Any]:
    shapes = {n: layer_shape(layer) for n, layer in layers.items()}
    cfgs = {n: checked_config(handle.variant, handle.cfg, *shape, n) for n, shape in shapes.items()}
    if "r" in field_names(handle.cfg):
        handle.clamped |= {n: c.r for n, c in cfgs.items() if c.r != handle.cfg.r}
    if restored is not None:
        handle.calibration_sha256 = restored.calibration_sha256
        return restored.cfgs
    if handle.clamped:
        ranks = {fold(name): r for name, r in handle.clamped.items()}
        log.warning("r=%s is clamped on %d layers, with s as configured: %s", handle.cfg.r, len(handle.clamped), ranks)
    return handle.variant.distribute(cfgs, shapes, moments)


def _register(handle: Attachment, site: Variant, layer: Layer) -> None:
    hooks = []
    if site.changes_input():
        hooks.append(layer.register_forward_pre_hook(InputHook(site), with_kwargs=True))
    if type(site).forward is not Variant.forward:
        hooks.append(layer.register_forward_hook(OutputHook(site), with_kwargs=True))
    handle.undo_steps += [h.remove for h in hooks]


def _finish(handle: Attachment) -> None:
    log_selection(handle.model, handle.cfg, handle.sites)
    if handle.sites:
        _compute_together(handle)
        handle.undo_steps.append(handle.model.register_forward_hook(FirstForward(handle.idle, handle.sites)).remove)
    handle.watch_optimizers()
    setattr(handle.model, HANDLE, handle)
    handle.undo_steps.append(partial(remove_attribute, handle.model, HANDLE))
    reset_compiled()


def _compute_together(handle: Attachment) -> None:
    """The hooks between which sites may compute together."""
    module = innermost(handle.model, [site.layer for site in handle.sites.values()])
    forwards = Forwards(handle.sites)
    hooks = [module.register_forward_pre_hook(forwards.begin, prepend=True)]
    hooks.append(module.register_forward_hook(forwards.end, always_call=True))
    handle.undo_steps += [h.remove for h in hooks]
