"""One adapted layer: its tensors, and the hooks' bodies (`_hooks` registers them)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from adapters._bases import BasisCache
from adapters._contract import DTYPES, Variant, wide
from adapters._errors import AdapterError, problem
from adapters._weights import Layer, dense_weight, values_sha256

NOT_IN_BASES = ("targets", "layers", "roles", "dtype", "coeff")  # config fields no basis depends on
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
) -> None:
    """Puts the site's frozen and trainable tensors on its layer; what undoes that is appended to `undo` as it happens.

    dtype: of the layer's activations. stored: basis tensors of a checkpoint, instead of computing the basis.
    """
    layer, device = site.layer, site.layer.weight.device
    setattr(layer, MARK, site)
    undo.append(partial(delattr, layer, MARK))
    if stored:
        on_device = {k: t.to(device) for k, t in stored.items()}
        basis = site.restore(dense_weight(layer).to(torch.float64), on_device)
    else:
        basis = cached_basis(site, moment, cache)
    for key, tensor in basis.items():
        kept = wide(dtype) if tensor.dim() <= 1 else dtype  # S and norms stay wide
        kept = kept if tensor.is_floating_point() and key not in site.exact_basis else tensor.dtype
        # A copy: with device and dtype unchanged `.to` would share storage with a cached or stored basis.
        layer.register_buffer(key, tensor.to(device, kept, copy=True).contiguous(), persistent=False)
        undo.append(partial(delattr, layer, key))
    # Initial values are drawn on the CPU, so that every device starts from the same ones.
    for key, shape in site.shapes(site.cfg, site.o, site.i).items():
        layer.register_parameter(key, nn.Parameter(torch.zeros(shape, dtype=DTYPES[site.cfg.dtype])))
        undo.append(partial(delattr, layer, key))
    site.init(generator, moment)
    for p in site.parameters().values():
        p.data = p.data.to(device)


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


class InputHook:
    """Forward pre-hook (a class, so that copy.deepcopy carries the site along with its layer)."""

    def __init__(self, site: Variant) -> None:
        self.site = site

    def __call__(self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = _input_of(args, kwargs)
        _begin(self.site, x)
        x = self.site.forward_input(x)
        return ((x, *args[1:]), kwargs) if args else ((), {**kwargs, next(iter(kwargs)): x})


class OutputHook:
    def __init__(self, site: Variant) -> None:
        self.site = site

    def __call__(self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Tensor:
        x, site = _input_of(args, kwargs), self.site
        _begin(site, x)
        if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            factors = site.cached(f"factors {x.dtype}", lambda: _cast(site.factors(), x.dtype))
            if factors is not None:
                P, Q = factors
                change: Tensor = nn.functional.linear(nn.functional.linear(x, Q), P)
                return y + change
        return site.forward(x, y)


def _begin(site: Variant, x: Tensor) -> None:
    site.called = True
    own = site.layer._parameters.values()  # the trainable tensors among them
    if not x.is_meta and any(p is not None and p.is_meta for p in own):  # offloaded: in memory inside `forward` only
        what, remedy = "a layer was offloaded after attach", "Detach, undo the offloading, and attach again."
        raise AdapterError(problem(site.name, what, remedy=remedy))
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        site.drop_cache()


def _cast(factors: tuple[Tensor, Tensor] | None, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    return None if factors is None else (factors[0].to(dtype), factors[1].to(dtype))
