"""Quantities that do not depend on the input, computed once for all layers of a shape: few kernels instead of many.

In a forward pass of the module that holds all sites, the first site that asks computes for all sites that are alike,
from stacked tensors, and the others read their rows. Nothing outlives the pass. A site computes alone outside such a
pass, without gradients, inside activation checkpointing (its second forward runs outside the pass and must save the
same tensors as the first), in compiled or traced code, and under torch.func's transforms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from adapters._cache import version

if TYPE_CHECKING:
    from adapters._contract import Variant

Values = tuple[Tensor, ...]


class ForwardPass:
    """What the sites have computed together in the forward pass that is running."""

    def __init__(self, sites: list[Variant]) -> None:
        self.sites, self.hooks = sites, _saved_tensor_hooks()
        self._values: dict[tuple[Any, ...], tuple[Any, Values]] = {}  # (quantity, site) → what it was made of, value
        self._sources: list[list[list[Tensor]]] = []  # kept alive: `_state` knows them by id

    def serves(self) -> bool:
        """Whether sites may read here: an ordinary forward with gradients, outside activation checkpointing."""
        transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
        plain = torch.is_grad_enabled() and not transformed and not torch._C._is_tracing()
        return plain and _saved_tensor_hooks() == self.hooks

    def read(self, site: Variant, compute: Callable[..., Values], dtype: torch.dtype, names: tuple[str, ...]) -> Values:
        """This site's rows of `compute(dtype, *stacked tensors)`."""
        quantity = (compute.__name__, dtype)
        made_of = _state(site, names)
        kept = self._values.get((*quantity, id(site)))
        if kept is None or kept[0] != made_of:
            key = _key(site, names)
            peers = [s for s in self.sites if s is site or _key(s, names) == key]
            columns = [[tensor_of(s, n) for s in peers] for n in names]
            self._sources.append(columns)
            for s, values in zip(peers, together(lambda *t: compute(dtype, *t), columns), strict=True):
                self._values[*quantity, id(s)] = _state(s, names), values
            kept = self._values[*quantity, id(site)]
        return kept[1]


class Forwards:
    """Hooks of the innermost module that holds all sites (methods, no closures: copy.deepcopy carries the sites along).

    The sites know of the running pass only while it lasts, so that a copy of one layer is a copy of that layer alone.
    """

    def __init__(self, sites: Mapping[str, Variant]) -> None:
        self.sites = sites

    def begin(self, *_: object) -> None:
        if not torch.compiler.is_compiling():
            self._set(ForwardPass(list(self.sites.values())))

    def end(self, *_: object) -> None:
        if not torch.compiler.is_compiling():
            self._set(None)

    def _set(self, forward_pass: ForwardPass | None) -> None:
        for site in self.sites.values():
            site.forward_pass = forward_pass


def innermost(model: nn.Module, layers: list[nn.Module]) -> nn.Module:
    """The innermost module of `model` that holds all `layers` and has a forward of its own (a ModuleList has none).

    `model` itself where there is none: nothing is then computed together.
    """
    callable_ = [m for m in model.modules() if type(m).forward is not nn.Module.forward]
    return [model, *(m for m in callable_ if set(layers) <= set(m.modules()))][-1]


def tensor_of(site: Variant, name: str) -> Tensor:
    """A tensor of the site: an attribute, or what a method without arguments returns."""
    value = getattr(site, name)
    tensor: Tensor = value if isinstance(value, Tensor) else value()
    return tensor


def together(compute: Callable[..., Values], columns: list[list[Tensor]]) -> list[Values]:
    """Per site: its rows of `compute(*stacked)`. columns: for each argument, one tensor per site.

    A site that takes no part in a backward pass gets no gradient, as if it had computed alone, instead of zeros.
    """
    taking_part = [True] * len(columns[0])
    stacked = _Stack.apply(taking_part, *(t for column in columns for t in column))  # type: ignore[no-untyped-call]
    rows = _Unbind.apply(taking_part, *compute(*stacked))  # type: ignore[no-untyped-call]
    return [rows[n :: len(taking_part)] for n in range(len(taking_part))]


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, taking_part: list[bool], *tensors: Tensor) -> Values:
        ctx.taking_part, n = taking_part, len(taking_part)
        ctx.set_materialize_grads(False)
        columns = [tensors[k : k + n] for k in range(0, len(tensors), n)]
        stacked = tuple(torch.stack(column) for column in columns)
        need = [any(ctx.needs_input_grad[1 + k * n :][:n]) for k in range(len(columns))]
        ctx.mark_non_differentiable(*(t for t, needed in zip(stacked, need, strict=True) if not needed))
        return stacked

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        part = ctx.taking_part
        rows = [g.unbind() if g is not None else [None] * len(part) for g in grads]
        return None, *(g if takes else None for column in rows for g, takes in zip(column, part, strict=True))


class _Unbind(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, taking_part: list[bool], *stacked: Tensor) -> Values:
        ctx.taking_part = taking_part
        ctx.set_materialize_grads(False)
        return tuple(row for t in stacked for row in t.unbind())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        n = len(ctx.taking_part)
        columns = [grads[k : k + n] for k in range(0, len(grads), n)]
        ctx.taking_part[:] = [any(g is not None for g in row) for row in zip(*columns, strict=True)]  # _Stack's is next
        return None, *map(_stacked, columns)


def _stacked(column: tuple[Tensor | None, ...]) -> Tensor | None:
    some = next((g for g in column if g is not None), None)
    return None if some is None else torch.stack([torch.zeros_like(some) if g is None else g for g in column])


def _key(site: Variant, names: tuple[str, ...]) -> tuple[Any, ...]:
    """Sites with one key can be stacked. (Where weights are sharded or offloaded, only those that are there.)"""
    tensors = [t for t in (site.layer.weight, *(getattr(site, n) for n in names)) if isinstance(t, Tensor)]
    return site.cfg, site.coeff, site.enabled, [(type(t), t.shape, t.dtype, t.device) for t in tensors]


def _state(site: Variant, names: tuple[str, ...]) -> tuple[Any, ...]:
    """What makes the site's value: another coeff, other tensors or a write to one make another."""
    tensors = [t for t in (getattr(site, n) for n in names) if isinstance(t, Tensor)]
    return site.coeff, *((id(t), version(t)) for t in tensors)


def _saved_tensor_hooks() -> Any:
    """The innermost hooks on what autograd saves; activation checkpointing is made of them."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True)
