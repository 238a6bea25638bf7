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
from adapters._contract import DTYPES, Calibration, Config, Variant, discover, optimizer_steps, wide
from adapters._errors import AdapterError, problem
from adapters._targets import select_targets
from adapters._weights import (
    compute_dtype,
    dense_weight,
    forbid_cpu_packing,
    layer_shape,
    quantization,
    quantized_biases,
    values_sha256,
)

log = logging.getLogger("adapters")
VARIANTS: dict[str, type[Variant]] = discover()
_HANDLE = "_adapters_attachment"  # attribute of the model while something is attached
_MARK = "_adapters_site"  # attribute of each adapted layer


class Attachment:
    """What `attach` did to a model, and how to undo it. Also a context manager: detached at the end of the block.

    sites: module name → the variant's instance on that layer. clamped: module name → rank used, where `r` was larger
    than the layer allows. coeff: strength of every site; settable, 0 is off. calibration_sha256: of the batches that
    bases or initial values were computed from, None without (also when the batches given were not used).
    """

    def __init__(self, model: nn.Module, cfg: Config, variant: type[Variant]) -> None:
        self.model, self.variant = model, variant
        self.cfg: Any = cfg
        self.sites: dict[str, Variant] = {}
        self.clamped: dict[str, int] = {}
        self.calibration_sha256: str | None = None
        self.basis_cache: BasisCache | None = None
        self._undo: list[Callable[[], object]] = []  # partials, no closures: a deep copy of the model undoes itself

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "_step_hook"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._watch_optimizers()

    def _watch_optimizers(self) -> None:
        """After every optimizer step: caches are stale, constrained parameters are put back into range."""
        handle = weakref.ref(self)  # the hook is torch's, of all optimizers: it must not keep a dropped model alive

        def after_step(*_: Any) -> None:
            optimizer_steps(bump=True)
            if (live := handle()) is not None:
                for site in live.sites.values():
                    site.project()

        self._step_hook = register_optimizer_step_post_hook(after_step)

    @property
    def coeff(self) -> float:
        if "coeff" not in _fields(self.cfg):
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
    layers = {} if variant.trains_base or not variant_has_sites(variant) else select_targets(model, cfg)
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
                _prepare_site(handle, name, layer, cfgs[name], generator, moment, _restored)
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
    handle = getattr(model, _HANDLE, None)
    if handle is None:
        raise AdapterError(problem(type(model).__name__, "nothing is attached to this model"))
    return handle


def variant_of(cfg: Config) -> type[Variant]:
    """The Variant whose Config `cfg` is. Raises AdapterError for anything else."""
    for variant in VARIANTS.values():
        if type(cfg) is variant.Config:
            return variant
    expected = "an instance of " + ", ".join(v.Config.__name__ for v in VARIANTS.values())
    raise AdapterError(problem("attach", "not a config", got=cfg, expected=expected))


def variant_has_sites(variant: type[Variant]) -> bool:
    """False for variants that adapt no layer (`none`, `full`)."""
    return variant.forward is not Variant.forward or variant.changes_input()


def layer_config(cfg: Any, o: int, i: int) -> Any:
    """`cfg` with ranks no larger than an (o, i) layer allows."""
    fields = {f.name: f for f in dataclasses.fields(cfg)}
    if "r" not in fields:
        return cfg
    multiple = fields["r"].metadata["multiple"]  # hra's rows come in pairs, antipasto_rot's directions in fours
    r = min(cfg.r, min(o, i) // multiple * multiple)
    inner = {n: min(getattr(cfg, n), r) for n in ("lora_rank", "block", "k") if n in fields}  # sizes inside the rank
    return dataclasses.replace(cfg, r=r, **inner)


def parameter_count(model: nn.Module, cfg: Config) -> int:
    """Trainable parameters that `attach(model, cfg)` would make; reads shapes only, so a meta-device model will do."""
    variant = variant_of(cfg)
    if variant.trains_base:
        return sum(p.numel() for p in model.parameters())
    if not variant_has_sites(variant):
        return 0
    total = 0
    for layer in select_targets(model, cfg).values():
        o, i = layer_shape(layer)
        total += sum(torch.Size(s).numel() for s in variant.shapes(layer_config(cfg, o, i), o, i).values())
    return total


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
def _fields(cfg: Config) -> set[str]:
    return {f.name for f in dataclasses.fields(cfg)}


def _linears(model: nn.Module) -> Iterable[tuple[str, nn.Linear]]:
    return ((n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear))


def _refuse_second(model: nn.Module) -> None:
    taken = hasattr(model, _HANDLE) or any(hasattr(m, _MARK) for m in model.modules())
    if taken:
        raise AdapterError(problem(type(model).__name__, "an adapter is already attached", remedy="Detach it first."))


def _moments(handle: Attachment, layers: dict[str, nn.Linear], batches: Any) -> Moments | None:
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
    moments = second_moments(handle.model, layers, batches)
    handle.calibration_sha256 = calibration_sha256(moments.batches)
    return moments


def _layer_configs(
    handle: Attachment, layers: dict[str, nn.Linear], moments: Moments | None, restored: Restored | None
) -> dict[str, Any]:
    shapes = {n: layer_shape(layer) for n, layer in layers.items()}
    cfgs = {n: layer_config(handle.cfg, *shape) for n, shape in shapes.items()}
    if "r" in _fields(handle.cfg):
        handle.clamped |= {n: c.r for n, c in cfgs.items() if c.r != handle.cfg.r}
    if restored is not None:
        handle.calibration_sha256 = restored.calibration_sha256
        return restored.cfgs
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


def _prepare_site(
    handle: Attachment,
    name: str,
    layer: nn.Linear,
    cfg: Any,
    generator: torch.Generator,
    moment: Tensor | None,
    restored: Restored | None,
) -> None:
    """Everything but the hooks: the variant's instance, its frozen and its trainable tensors."""
    o, i = layer_shape(layer)
    site = handle.variant(layer, cfg, o, i)
    device, dtype = layer.weight.device, compute_dtype(handle.model, layer)
    setattr(layer, _MARK, site)
    handle._undo.append(partial(delattr, layer, _MARK))

    stored = restored.bases.get(name) if restored is not None else None
    if stored:
        basis = site.restore(dense_weight(layer).to(torch.float64), {k: t.to(device) for k, t in stored.items()})
    else:
        basis = _basis(handle, site, moment)
    for key, tensor in basis.items():
        kept = wide(dtype) if tensor.dim() <= 1 else dtype  # S and norms stay wide
        kept = kept if tensor.is_floating_point() and key not in site.exact_basis else tensor.dtype
        # A copy: with device and dtype unchanged `.to` would share storage with a cached or stored basis.
        layer.register_buffer(key, tensor.to(device, kept, copy=True).contiguous(), persistent=False)
        handle._undo.append(partial(delattr, layer, key))

    # Initial values are drawn on the CPU, so that every device starts from the same ones.
    for key, shape in site.shapes(cfg, o, i).items():
        layer.register_parameter(key, nn.Parameter(torch.zeros(shape, dtype=DTYPES[cfg.dtype])))
        handle._undo.append(partial(delattr, layer, key))
    site.init(generator, moment)
    for p in site.parameters().values():
        p.data = p.data.to(device)
    handle.sites[name] = site


def _basis(handle: Attachment, site: Variant, moment: Tensor | None) -> dict[str, Tensor]:
    if type(site).basis is Variant.basis:
        return {}
    weight, cache = dense_weight(site.layer), handle.basis_cache
    if cache is None:
        return site.basis(weight.to(torch.float64), moment)
    fields = {
        k: v
        for k, v in dataclasses.asdict(site.cfg).items()
        if k not in ("targets", "layers", "roles", "dtype", "coeff")
    }
    key = cache.key(site.name, values_sha256(weight), fields, moment)
    tensors = cache.read(key)
    if tensors is None:
        tensors = site.basis(weight.to(torch.float64), moment)
        cache.write(key, tensors)
    return tensors


def _register(handle: Attachment, site: Variant, layer: nn.Linear) -> None:
    hooks = []
    if site.changes_input():
        hooks.append(layer.register_forward_pre_hook(_InputHook(site), with_kwargs=True))
    if type(site).forward is not Variant.forward:
        hooks.append(layer.register_forward_hook(_OutputHook(site), with_kwargs=True))
    handle._undo += [h.remove for h in hooks]


def _finish(handle: Attachment) -> None:
    if handle.clamped:
        log.info("r=%s clamped on %d layers: %s", handle.cfg.r, len(handle.clamped), handle.clamped)
    handle._watch_optimizers()
    setattr(handle.model, _HANDLE, handle)
    handle._undo.append(partial(delattr, handle.model, _HANDLE))


def _undo(handle: Attachment) -> None:
    while handle._undo:
        handle._undo.pop()()
    if hasattr(handle, "_step_hook"):
        handle._step_hook.remove()
    handle.sites.clear()


# -- the hooks ---------------------------------------------------------------------------------------------------------
def _input_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else kwargs["input"]


class _InputHook:
    """Forward pre-hook (a class, so that copy.deepcopy carries the site along with its layer)."""

    def __init__(self, site: Variant) -> None:
        self.site = site

    def __call__(self, layer: nn.Linear, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        _begin(self.site)
        x = self.site.forward_input(_input_of(args, kwargs))
        return ((x, *args[1:]), kwargs) if args else ((), {**kwargs, "input": x})


class _OutputHook:
    def __init__(self, site: Variant) -> None:
        self.site = site

    def __call__(self, layer: nn.Linear, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Tensor:
        x, site = _input_of(args, kwargs), self.site
        _begin(site)
        if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            factors = site.cached(f"factors {x.dtype}", lambda: _cast(site.factors(), x.dtype))
            if factors is not None:
                P, Q = factors
                return y + nn.functional.linear(nn.functional.linear(x, Q), P)
        return site.forward(x, y)


def _begin(site: Variant) -> None:
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        site.drop_cache()


def _cast(factors: tuple[Tensor, Tensor] | None, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    return None if factors is None else (factors[0].to(dtype), factors[1].to(dtype))
