"""Attach and detach: the only module that registers hooks, parameters or buffers on somebody's model.

attach → hooks and tensors appear on the matched layers, everything else is frozen.
detach → the model is as it was, bit for bit: no hook, no state-dict key, no changed requires_grad.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from adapters._bases import BasisCache
from adapters._calibration import Moments, calibration_sha256, second_moments
from adapters._contract import Calibration, Config, Variant, optimizer_steps
from adapters._errors import AdapterError, problem
from adapters._idle import FirstForward, IdleSites
from adapters._registry import checked_config, field_names, variant_has_sites, variant_of
from adapters._site import MARK, InputHook, OutputHook, build
from adapters._targets import fold, log_selection, select_targets
from adapters._weights import (
    Layer,
    compute_dtype,
    forbid_cpu_packing,
    is_linear,
    layer_shape,
    quantization,
    quantized_biases,
    refuse_unloaded,
)

log = logging.getLogger("adapters")
_HANDLE = "_adapters_attachment"  # attribute of the model while something is attached


class Attachment:
    """What `attach` did to a model, and how to undo it. Also a context manager: detached at the end of the block.

    sites: module name → the variant's instance on that layer. clamped: module name → rank used, where `r` was larger
    than the layer allows (the scale s is as configured). coeff: strength of every site; settable, 0 is off.
    calibration_sha256: of the batches that bases or initial values were computed from; None where none were used.
    """

    def __init__(self, model: nn.Module, cfg: Config, variant: type[Variant]) -> None:
        self.model, self.variant = model, variant
        self.cfg: Any = cfg
        self.sites: dict[str, Variant] = {}
        self.clamped: dict[str, int] = {}
        self.calibration_sha256: str | None = None
        self.basis_cache: BasisCache | None = None
        self._idle = IdleSites()
        self._undo: list[Callable[[], object]] = []  # partials, no closures: a deep copy of the model undoes itself

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "_step_hook"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._watch_optimizers()

    def _watch_optimizers(self) -> None:
        """After every optimizer step: caches are stale, constrained parameters are put back into range."""
        handle = weakref.ref(self)  # the hook is torch's, of all optimizers: it must not keep a dropped model alive

        def after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            optimizer_steps(bump=True)
            if (live := handle()) is not None:
                live._idle.after_step(live.sites, optimizer)
                for site in live.sites.values():
                    site.project()

        self._step_hook = register_optimizer_step_post_hook(after_step)

    @property
    def coeff(self) -> float:
        if "coeff" not in field_names(self.cfg):
            raise AdapterError(problem(self.variant.name, "this variant has no coeff"))
        return next(iter(self.sites.values())).coeff

    @coeff.setter
    def coeff(self, value: float) -> None:
        _ = self.coeff  # raises for variants without one
        dataclasses.replace(self.cfg, coeff=value)  # validates
        for site in self.sites.values():
            site.coeff = float(value)
            site.drop_cache()

    def trainable(self) -> dict[str, nn.Parameter]:
        """Trainable tensors by name: `<layer>.lora_*`, or for `full` every base parameter."""
        if self.variant.trains_base:
            return dict(self.model.named_parameters())
        return {f"{n}.{k}": p for n, site in self.sites.items() for k, p in site.parameters().items()}

    def detach(self) -> None:
        detach(self.model)

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if getattr(self.model, _HANDLE, None) is self:
            self.detach()


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

    calibration: batches of training inputs (a dict is model(**b), a tensor model(b)) for variants that read them.
    seed: of the initial values; None draws one from torch's generator. cache_dir: folder for SVD bases.
    Raises AdapterError, and leaves the model as it was, when something is attached already, no layer matches, a layer
    cannot be read, or a needed calibration is missing.
    """
    variant = variant_of(cfg)
    _refuse_second(model)
    handle = Attachment(model, cfg, variant)
    handle.basis_cache = BasisCache(cache_dir) if cache_dir is not None else None
    layers = select_targets(model, cfg) if variant_has_sites(variant) else {}
    refuse_unloaded(layers or (dict(model.named_modules()) if variant.trains_base else {}))
    for name, layer in (layers or dict(_linears(model))).items():
        if quantization(layer) is not None and not variant.supports_quantized:
            raise AdapterError(
                problem(variant.name, f"cannot train a quantized base ({name})", remedy="Use quantization=none.")
            )
    seed = int(torch.randint(2**62, ()).item()) if seed is None else seed
    generator = torch.Generator().manual_seed(seed)
    try:
        forbid_cpu_packing(model)
        with torch.inference_mode(False), torch.no_grad():
            moments = None if _restored else _moments(handle, layers, calibration)
            _freeze(handle)
            cfgs = _layer_configs(handle, layers, moments, _restored)
            for name, layer in layers.items():
                moment = None if moments is None else moments[name]
                site = variant(layer, cfgs[name], *layer_shape(layer))
                stored = _restored.bases.get(name) if _restored is not None else None
                dtype, cache = compute_dtype(model, layer), handle.basis_cache
                build(site, generator, moment, handle._undo, dtype=dtype, stored=stored, cache=cache)
                handle.sites[name] = site
            for site in handle.sites.values():  # only now: reading a moment may have run the model
                _register(handle, site, site.layer)
        _finish(handle)
    except BaseException:
        _undo(handle)
        raise
    return handle


def detach(model: nn.Module) -> None:
    """Restores `model` bit for bit. Raises AdapterError when nothing is attached."""
    handle = attachment(model)
    _undo(handle)
    if "torch._dynamo" in sys.modules:  # a compiled model keeps the hooks it was traced with
        torch.compiler.reset()


def attachment(model: nn.Module) -> Attachment:
    """The model's Attachment. Raises AdapterError when nothing is attached."""
    handle: Attachment | None = getattr(model, _HANDLE, None)
    if handle is None:
        raise AdapterError(problem(type(model).__name__, "nothing is attached to this model"))
    return handle


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
def _linears(model: nn.Module) -> Iterable[tuple[str, Layer]]:
    return ((n, m) for n, m in model.named_modules() if is_linear(m))


def _refuse_second(model: nn.Module) -> None:
    taken = hasattr(model, _HANDLE) or any(hasattr(m, MARK) for m in model.modules())
    if taken:
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
        log.warning("%s reads no calibration data; the batches given are not used", variant.name)
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


def _freeze(handle: Attachment) -> None:
    model, variant = handle.model, handle.variant
    before = {n: p.requires_grad for n, p in model.named_parameters()}
    saved = {n: p.detach().to("cpu", copy=True) for n, p in model.named_parameters()} if variant.trains_base else {}
    handle._undo.append(partial(_restore, model, before, saved))
    handle._undo += [partial(_restore_bias, bias, bias.data) for bias in quantized_biases(model)]
    for p in model.parameters():
        if p.is_floating_point():
            p.requires_grad_(variant.trains_base)


@torch.no_grad()
def _restore(model: nn.Module, before: dict[str, bool], saved: dict[str, Tensor]) -> None:
    for n, p in model.named_parameters():
        if n in saved:
            p.copy_(saved[n])
            p.grad = None
        p.requires_grad_(before[n])


def _restore_bias(bias: nn.Parameter, values: Tensor) -> None:
    if bias.dtype != values.dtype:
        bias.data = values.to(bias.device)


def _register(handle: Attachment, site: Variant, layer: Layer) -> None:
    hooks = []
    if site.changes_input():
        hooks.append(layer.register_forward_pre_hook(InputHook(site), with_kwargs=True))
    if type(site).forward is not Variant.forward:
        hooks.append(layer.register_forward_hook(OutputHook(site), with_kwargs=True))
    handle._undo += [h.remove for h in hooks]


def _finish(handle: Attachment) -> None:
    log_selection(handle.model, handle.cfg, handle.sites)
    if handle.sites:
        handle._undo.append(handle.model.register_forward_hook(FirstForward(handle._idle, handle.sites)).remove)
    handle._watch_optimizers()
    setattr(handle.model, _HANDLE, handle)
    handle._undo.append(partial(delattr, handle.model, _HANDLE))


def _undo(handle: Attachment) -> None:
    while handle._undo:
        handle._undo.pop()()
    if hasattr(handle, "_step_hook"):
        handle._step_hook.remove()
    handle.sites.clear()
