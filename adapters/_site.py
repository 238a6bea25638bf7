"""One adapted layer: its tensors, what keeps their dtypes, and the hooks' bodies (`_hooks` registers them)."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from adapters._bases import BasisCache
from adapters._contract import DTYPES, Variant, dtype_name, wide
from adapters._errors import AdapterError, problem
from adapters._weights import Layer, dense_weight, values_sha256

NOT_IN_BASES = ("targets", "layers", "roles", "dtype", "coeff")  # config fields no basis depends on
Shared = dict[tuple[Any, ...], tuple[weakref.ref[Tensor], Tensor]]  # (id, device, dtype) → the tensor, its buffer
MARK = "_adapters_site"  # attribute of each adapted layer


def build(
    site: Variant,
    generator: torch.Generator,
    moment: Tensor | None,
    undo: list[Callable[[], object]],
    *,
    dtype: torch.dtype,
    stored: dict[str, Tensor] | None,
    cache: BasisCache | None,
    shared: Shared,
) -> None:
    """Puts the site's frozen and trainable tensors on its layer, and appends to `undo` what takes them off again.

    dtype: of the layer's activations. stored: basis tensors of a checkpoint, instead of computing the basis. shared:
        buffers of the sites so far.
    """
    layer, device = site.layer, site.layer.weight.device
    setattr(layer, MARK, site)
    undo.append(partial(remove_attribute, layer, MARK))
    stored = {k: t.to(device) for k, t in (stored or {}).items()}
    W = dense_weight(layer).to(torch.float64) if stored else None  # (o, i)
    basis = cached_basis(site, moment, cache) if W is None else site.restore(W, stored)
    for key, tensor in basis.items():
        as_it_is = key in stored or key in site.exact_basis or not tensor.is_floating_point()
        kind = tensor.dtype if as_it_is else wide(dtype) if tensor.dim() <= 1 else dtype  # S and norms are wide
        layer.register_buffer(key, _buffer(tensor, device, kind, shared), persistent=False)
        undo.append(partial(remove_attribute, layer, key))
    # Initial values are drawn on the CPU, so that every device starts from the same ones.
    for key, shape in site.shapes(site.cfg, site.o, site.i).items():
        own = site.owner is site
        p = nn.Parameter(torch.zeros(shape, dtype=DTYPES[site.cfg.dtype])) if own else getattr(site.owner.layer, key)
        layer.register_parameter(key, p)
        undo.append(partial(remove_attribute, layer, key))
    setattr(layer, "_apply", CastGuard(site))  # noqa: B010
    undo.append(partial(remove_attribute, layer, "_apply"))
    if site.owner is not site:
        return
    site.init(generator, moment)
    for key, p in site.parameters().items():
        layer.register_parameter(key, nn.Parameter(p.detach().to(device)))


def _buffer(tensor: Tensor, device: torch.device, dtype: torch.dtype, shared: Shared) -> Tensor:
    """A copy, since `.to` could return a cached or stored basis; one for all layers that have this very tensor."""
    key = (id(tensor), device, dtype)
    source, buffer = shared.get(key, (None, tensor))
    if source is None or source() is not tensor:  # an id is used again when its tensor is gone
        buffer = tensor.to(device, dtype, copy=True).contiguous()
        shared[key] = (weakref.ref(tensor), buffer)
    return buffer


def remove_attribute(layer: nn.Module, name: str) -> None:
    """Deletes the layer's own attribute, parameter or buffer, if it is still there."""
    if any(name in store for store in (vars(layer), layer._parameters, layer._buffers)):
        delattr(layer, name)


class CastGuard:
    """Stands in for a layer's `_apply`, which `model.to(...)`, `.half()` and `.cuda()` call: basis tensors move uncast.

    Casting would cost singular values and norms digits that casting back does not return. Casts of the weight are noted
    in `site.casts`; after any cast the basis is no longer what would be computed from the model as it is.
    """

    def __init__(self, site: Variant) -> None:
        self.site = site

    def __call__(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        site, layer, casts = self.site, self.site.layer, self.site.casts
        buffers, dtype = dict(layer._buffers), layer.weight.dtype
        type(layer)._apply(layer, fn, *args, **kwargs)
        for key, old in buffers.items():
            now = layer._buffers[key]
            if key.startswith("basis_") and old is not None and now is not None and now.dtype != old.dtype:
                layer._buffers[key] = old.to(now.device)
                site.keeps_basis = True  # a quantized weight is not cast, but the activations are
        if (new := layer.weight.dtype) != dtype:
            back = len(casts) > 1 and casts[-2] == new and torch.promote_types(new, dtype) == dtype
            casts.pop() if back else casts.append(new)  # bf16 → fp32 → bf16 rounds once
            site.keeps_basis = True
        return layer


def basis_of(site: Variant) -> dict[str, Tensor]:
    """The site's frozen tensors by name (`basis_U`, …)."""
    return {k: t for k, t in site.layer.named_buffers(recurse=False) if k.startswith("basis_")}


def basis_dtype(site: Variant) -> str | None:
    """Name of the basis matrices' dtype (the narrowest one); None without any."""
    return min((dtype_name(t.dtype) for t in basis_of(site).values() if t.dim() > 1), default=None)


def cached_basis(site: Variant, moment: Tensor | None, cache: BasisCache | None) -> dict[str, Tensor]:
    """The variant's basis, read from the cache or computed and put there."""
    if type(site).basis is Variant.basis:
        return {}
    weight = dense_weight(site.layer)
    if cache is None:
        return site.basis(weight.to(torch.float64), moment)
    fields = {k: v for k, v in dataclasses.asdict(site.cfg).items() if k not in NOT_IN_BASES}
    if site.basis_fields is not None:
        fields = {k: fields[k] for k in site.basis_fields}
    key = cache.key(site.name, values_sha256(weight), fields, moment)
    tensors = cache.read(key)
    if tensors is None:
        tensors = site.basis(weight.to(torch.float64), moment)
        cache.write(key, tensors)
    return tensors


# -- the hooks ---------------------------------------------------------------------------------------------------------
def _input_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x: Tensor = args[0] if args else next(iter(kwargs.values()))  # `input` of nn.Linear, `x` of Conv1D
    return x


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    """What autocast would cast x to; None where it is off."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if device != "meta" and torch.is_autocast_enabled(device) else None


class InputHook:
    """Forward pre-hook (a class, so that copy.deepcopy carries the site along with its layer)."""

    def __init__(self, site: Variant) -> None:
        self.site = site

    def __call__(self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = _input_of(args, kwargs)
        _begin(self.site, x)
        if not self.site.enabled:
            return None
        if _autocast_dtype(x) is None:
            x = self.site.forward_input(x)
        else:
            with torch.autocast(x.device.type, enabled=False):
                x = self.site.forward_input(x)  # as wide as it comes: the layer itself casts it
        return ((x, *args[1:]), kwargs) if args else ((), {**kwargs, next(iter(kwargs)): x})


class OutputHook:
    """Forward hook."""

    def __init__(self, site: Variant) -> None:
        self.site = site

    def __call__(self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Tensor | None:
        x = _input_of(args, kwargs)
        _begin(self.site, x)
        if not self.site.enabled:
            return None
        if (dtype := _autocast_dtype(x)) is None:
            return self.output(x, y)
        with torch.autocast(x.device.type, enabled=False):
            return self.output(x if x.dtype == torch.float64 else x.to(dtype), y)  # autocast leaves fp64 alone too

    def output(self, x: Tensor, y: Tensor) -> Tensor:
        """The variant's output, by P and Q where they are kept."""
        site = self.site
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or site.cache is None:
            return site.forward(x, y)
        factors = site.cached(f"factors {x.dtype}", lambda: _cast(site.factors(), x.dtype))
        if factors is None:
            return site.forward(x, y)
        P, Q = factors
        change: Tensor = nn.functional.linear(nn.functional.linear(x, Q), P)
        return y + change


def _begin(site: Variant, x: Tensor) -> None:
    site.called = True
    own = site.layer._parameters.values()  # the trainable tensors among them
    if not x.is_meta and any(p is not None and p.is_meta for p in own):  # offloaded: in memory inside `forward` only
        what, remedy = "a layer was offloaded after attach", "Detach, undo the offloading, and attach again."
        raise AdapterError(problem(site.name, what, remedy=remedy))


def _cast(factors: tuple[Tensor, Tensor] | None, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    return None if factors is None else (factors[0].to(dtype), factors[1].to(dtype))
