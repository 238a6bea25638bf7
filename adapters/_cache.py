"""What a site keeps between the grad-free forwards of a `frozen()` block: quantities that do not depend on the input.

A stale value gives wrong numbers, so nothing is kept outside such a block. Inside one, every read compares what makes a
value: `coeff`, and of each tensor on the layer the object, data pointer, version, shape, dtype and device. (Autocast is
not compared: the hooks turn it off.) An in-place write through `.data` cannot be seen; call `refresh()` after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

T = TypeVar("T")


class Cache:
    """Kept quantities of one layer, by name. It lives as long as the outermost `frozen()` block."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer, self.tensors = layer, _tensors(layer)
        self._kept: dict[str, tuple[Any, Any, Any]] = {}

    def read(self, name: str, coeff: float, compute: Callable[[], T]) -> T:
        """The value kept under `name`, or `compute()`, a tensor or a tuple of tensors, which is then kept."""
        tensors = _tensors(self.layer)
        if len(tensors) != len(self.tensors) or any(a is not b for a, b in zip(tensors, self.tensors, strict=True)):
            return compute()  # other tensors stand in for the layer's own (functional_call): neither read nor kept
        key = (coeff, *((t.data_ptr(), version(t), t.shape, t.dtype, t.device) for t in tensors))
        kept = self._kept.get(name)
        if kept is None or kept[0] != key:
            # The storages stay alive, or a later tensor could get the same data pointer.
            storages = [t.untyped_storage() for t in tensors]
            kept = self._kept[name] = (key, storages, _owned(compute(), self.layer))
        value: T = kept[2]
        return value

    def clear(self) -> None:
        self._kept.clear()


def version(t: Tensor) -> int:
    """How often `t` was written in place; tensors of inference mode do not count."""
    return -1 if t.is_inference() else t._version


def _tensors(layer: nn.Module) -> list[Tensor]:
    return [t for store in (layer._parameters, layer._buffers) for t in store.values() if t is not None]


def _owned(value: Any, layer: nn.Module) -> Any:
    """`value` with copies in place of views of parameters: half of an (A, B) pair must not follow a write to A."""
    if isinstance(value, tuple):
        return tuple(_owned(t, layer) for t in value)
    live = {p.untyped_storage().data_ptr() for p in layer._parameters.values() if p is not None}
    is_view = isinstance(value, Tensor) and value.untyped_storage().data_ptr() in live
    return value.clone() if is_view else value
