"""Keys and values of rows that decode together, written in place: `torch.cat` would copy all of them at every token.

Rows are aligned on the right, so the pending tokens of all rows share a column. Columns are counted from the first
prefill on and keep their numbers when the buffers move.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

STEP = 64  # columns in reserve after each growth


@dataclass
class Window:
    """Size of the buffers and the part that the next forward sees: `seen` columns from `first` on, rows from `top` on.

    The forward's own tokens are written behind these columns. origin: the number of the buffers' first column.
    place: where the next forward writes instead, a column of the buffers, (1,); it then sees the whole buffers.
    """

    slots: int
    columns: int = 0
    origin: int = 0
    top: int = 0
    first: int = 0
    seen: int = 0
    place: Int[Tensor, " 1"] | None = None


class KeyValueCache(Cache):  # type: ignore[misc]
    """A transformers cache for up to `slots` rows. All layers keep all columns; sliding windows are in the mask."""

    def __init__(self, slots: int) -> None:
        self.window = Window(slots)
        super().__init__(layer_class_to_replicate=partial(_Layer, self.window))

    def reserve(self, first: int, end: int, rows: int) -> bool:
        """Makes columns [first, end) fit and keeps what the first `rows` rows have there; whether the buffers moved."""
        w = self.window
        if w.origin <= first and end <= w.origin + w.columns:
            return False
        low, high, old = max(first, w.origin), min(end, w.origin + w.columns), w.origin
        w.origin, w.columns = first, -(-(end - first) // 8) * 8 + STEP
        for layer in self.layers:
            layer.keys, layer.values = (
                _moved(t, w, rows, slice(low - old, high - old), low - first) for t in (layer.keys, layer.values)
            )
        return True

    def copy_rows(self, source: Int[Tensor, " n"], target: Int[Tensor, " n"], first: int, end: int) -> None:
        """Copies columns [first, end) of the rows `source` over those of the rows `target`."""
        columns = slice(first - self.window.origin, end - self.window.origin)
        for layer in self.layers:
            for t in (layer.keys, layer.values):
                t[target, :, columns] = t[source, :, columns]


def _moved(t: Float[Tensor, "s h T d"], w: Window, rows: int, columns: slice, place: int) -> Float[Tensor, "s h t d"]:
    """A buffer of the window's size with these rows and columns of `t`, the columns at `place`."""
    new = t.new_zeros(w.slots, t.shape[1], w.columns, t.shape[3])
    if rows:
        new[:rows, :, place : place + columns.stop - columns.start] = t[:rows, :, columns]
    return new


class _Layer(DynamicLayer):  # type: ignore[misc]
    """One layer's buffers, (slots, heads, columns, d). Unused places are zeroed: masked values must be finite too."""

    keys: Tensor
    values: Tensor
    is_initialized: bool

    def __init__(self, window: Window) -> None:
        super().__init__()
        self.window = window

    def update(
        self, key_states: Float[Tensor, "B h n d"], value_states: Float[Tensor, "B h n e"], *args: Any, **kwargs: Any
    ) -> tuple[Float[Tensor, "B h T d"], Float[Tensor, "B h T e"]]:
        """Writes the new columns; returns the window with them."""
        new, w = (key_states, value_states), self.window
        if not self.is_initialized:
            self.keys, self.values = (t.new_zeros(w.slots, t.shape[1], w.columns, t.shape[3]) for t in new)
            self.is_initialized = True
        if w.place is not None:
            for buffer, states in zip((self.keys, self.values), new, strict=True):
                buffer.index_copy_(2, w.place, states)
            return self.keys, self.values
        rows = slice(w.top, w.top + len(key_states))
        first, at = w.first - w.origin, w.first - w.origin + w.seen
        for buffer, states in zip((self.keys, self.values), new, strict=True):
            buffer[rows, :, at : at + states.shape[2]] = states
            if not w.seen:
                buffer[rows, :, :first] = 0
        if not w.seen:
            return key_states, value_states
        end = at + key_states.shape[2]
        return self.keys[rows, :, first:end], self.values[rows, :, first:end]

    def get_seq_length(self) -> int:
        """Columns that a forward finds in the cache."""
        return self.window.seen


def takes_additive_mask(model: Any) -> bool:
    """Whether the model uses a (B, 1, 1, T) mask as it is: rotary positions, and all layers see all of them.

    Others make their own from a (B, T) mask: for sliding windows, or for ALiBi's distances.
    """
    config = model.config.get_text_config()
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return False
    other = any(getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size", "alibi"))
    rotary = getattr(config, "rope_parameters", None) is not None
    return rotary and not other and config._attn_implementation in ("sdpa", "eager")


def additive(real: Tensor, dtype: torch.dtype) -> Float[Tensor, "B 1 1 T"]:
    """0 where `real` (B, T) is true, else the least number of this dtype."""
    mask = torch.zeros(real.shape, dtype=dtype, device=real.device)
    return mask.masked_fill_(~real, torch.finfo(dtype).min).view(len(real), 1, 1, -1)
