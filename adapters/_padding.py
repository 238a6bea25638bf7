"""Which of a layer's inputs are padding: what the masks of a calibration batch say about each layer.

Most models have one mask, `attention_mask`. In an encoder-decoder model that is the encoder's. The decoder's tokens
follow `decoder_attention_mask`, or else what the model derives the decoder's inputs from: `labels`, or `input_ids`.
Keys and values of cross-attention are computed from the encoder's states and follow the encoder's mask.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from adapters._errors import AdapterError, problem
from adapters._left_out import output_embeddings
from adapters._weights import Layer

WHERE = "calibration"


class Padding:
    """Tells padding from tokens, batch by batch: `enter(batch)`, then `rows(name, x)` for every input of a layer."""

    def __init__(self, model: nn.Module, layers: Mapping[str, Layer]) -> None:
        self.decoder = _decoder(model)
        inside: set[int] = set()
        if self.decoder is not None:
            inside = {id(m) for m in self.decoder.modules()} | output_embeddings(model)
        self.of_decoder = {n for n, m in layers.items() if id(m) in inside}
        self._states: Any = lambda: None  # weak reference to what cross-attention reads
        self._masks: tuple[Tensor | None, Tensor | None] = (None, None)  # encoder's, decoder's

    def enter(self, batch: Any) -> None:
        """Reads the masks of the batch that runs next."""
        fields = batch if isinstance(batch, Mapping) else {}
        self._masks = (_mask(fields, "attention_mask"), _decoder_mask(fields))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Notes the encoder's states as they enter the decoder; the hook is gone at the end of the block."""
        if self.decoder is None:
            yield
            return
        hook = self.decoder.register_forward_pre_hook(self._note, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    def _note(self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = kwargs.get("encoder_hidden_states")
        self._states = weakref.ref(states) if isinstance(states, Tensor) else lambda: None

    def rows(self, name: str, x: Float[Tensor, "*B i"]) -> Float[Tensor, "n i"]:
        """The rows of x that are tokens. Raises AdapterError where the mask is of another shape than the inputs."""
        mask = self._masks[name in self.of_decoder and self._states() is not x]
        rows = x.detach().flatten(0, -2) if x.dim() > 1 else x.detach().unsqueeze(0)
        if mask is None or bool(mask.all()):
            return rows
        if x.shape[:-1] != mask.shape and not (x.dim() == 2 and len(rows) == mask.numel()):
            what = f"cannot tell which inputs of layer {name} are padding"
            expected = f"one row for each of {tuple(mask.shape)} tokens"
            remedy = "Give batches without padding."
            raise AdapterError(problem(WHERE, what, got=tuple(x.shape), expected=expected, remedy=remedy))
        return rows[mask.flatten().to(x.device)]


def _decoder(model: nn.Module) -> nn.Module | None:
    """The decoder of an encoder-decoder model, also of one inside `model`; None for models with one stack."""
    for part in model.modules():
        if getattr(getattr(part, "config", None), "is_encoder_decoder", False) and hasattr(part, "get_decoder"):
            decoder: nn.Module = part.get_decoder()  # type: ignore[operator]
            return decoder
    return None


def _mask(batch: Mapping[str, Any], key: str) -> Bool[Tensor, "n t"] | None:
    """A mask as booleans; None for a batch without one."""
    mask = batch.get(key)
    if mask is None:
        return None
    if mask.dim() != 2:
        got, expected = tuple(mask.shape), "(batch, tokens)"
        raise AdapterError(problem(WHERE, f"{key} has another shape", got=got, expected=expected))
    kept: Tensor = mask.bool()
    return kept


def _decoder_mask(batch: Mapping[str, Any]) -> Bool[Tensor, "n t"] | None:
    """From `decoder_attention_mask`, or from what the model derives the decoder's inputs from.

    Those inputs are shifted by one: a text of n labels has n inputs, the start token and all labels but the last.
    """
    if any(key.startswith("decoder_") for key in batch):
        return _mask(batch, "decoder_attention_mask")
    labels = batch.get("labels")
    if isinstance(labels, Tensor) and labels.dim() == 2:
        return labels != -100
    return _mask(batch, "attention_mask")  # of classifiers, which shift `input_ids`
