"""Cross-entropy on label positions only, in chunks, so that full-vocabulary logits never exist for the whole batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import masking_utils

CHUNK = 1024  # most label positions whose logits exist at one time
LOGITS = 2**25  # most logits that exist at one time; several fp32 copies of 128 MiB each follow from them


def label_loss_sum(
    model: Any, ids: Int[Tensor, "B T"], labels: Int[Tensor, " N"], chunk: int | None = None
) -> Float[Tensor, ""]:
    """Sum over label positions of −log p(token | what is before it), in nats; fp32 or wider.

    labels: positions of the predicted tokens in the flattened ids (a boolean mask would make CUDA wait for its count).
    Rows are padded on the right and there is no attention mask: under causal attention no real token sees what follows
    it, and without a mask the fast attention kernels apply. chunk: positions at one time; None: what CHUNK and LOGITS
    allow (a vocabulary of 151,936 leaves 220).
    """
    outputs, states, targets = _states(model, ids, labels)
    chunk = chunk or _chunk(model)
    if states.shape[0] <= chunk:
        return _chunk_loss(model, ids, outputs, states, targets)
    total: Tensor = states.new_zeros((), dtype=torch.promote_types(torch.float32, states.dtype))
    for part, expected in zip(states.split(chunk), targets.split(chunk), strict=True):
        # Recomputed in the backward pass: kept, the chunks' logits would add up to what chunking avoids.
        total = total + checkpoint(_chunk_loss, model, ids, outputs, part, expected, use_reentrant=False)
    return total


@torch.no_grad()
def label_losses(model: Any, ids: Int[Tensor, "B T"], labels: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The terms of `label_loss_sum`, without gradients: −log p of each label token, in nats; fp32 or wider."""
    outputs, states, targets = _states(model, ids, labels)
    parts = zip(states.split(_chunk(model)), targets.split(_chunk(model)), strict=True)
    return torch.cat([_chunk_loss(model, ids, outputs, part, expected, "none") for part, expected in parts])


def _states(
    model: Any, ids: Int[Tensor, "B T"], labels: Int[Tensor, " N"]
) -> tuple[Any, Float[Tensor, "N H"], Int[Tensor, " N"]]:
    """The decoder's outputs without their states, the state before each label, and the labels' tokens."""
    with _unpacked_rows():
        outputs = model.get_decoder()(input_ids=ids, use_cache=False)
    states = outputs.last_hidden_state.flatten(0, 1)[labels - 1]
    return dataclasses.replace(outputs, last_hidden_state=None), states, ids.flatten()[labels]


def _chunk(model: Any) -> int:
    vocabulary: int = model.get_output_embeddings().weight.shape[0]
    return min(CHUNK, max(1, LOGITS // vocabulary))


@contextmanager
def _unpacked_rows() -> Iterator[None]:
    """Every row is one text. Without a mask transformers would look for several, which makes the host wait."""
    looks = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = _one_text
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = looks


def _one_text(position_ids: Tensor) -> None:
    """One function for every call: torch.compile traces again where it finds another."""


def _chunk_loss(
    model: Any,
    ids: Int[Tensor, "B T"],
    outputs: Any,
    states: Float[Tensor, "N H"],
    targets: Int[Tensor, " N"],
    reduction: str = "sum",
) -> Float[Tensor, "*n"]:
    """The model's own forward behind its decoder, which may scale or cap logits (Granite, Cohere, Gemma 2)."""
    with _decoder_returns(model, dataclasses.replace(outputs, last_hidden_state=states[None])):
        logits = model(input_ids=ids, use_cache=False).logits[0]  # (N, V)
    return F.cross_entropy(logits.to(torch.promote_types(torch.float32, logits.dtype)), targets, reduction=reduction)


@contextmanager
def _decoder_returns(model: Any, outputs: Any) -> Iterator[None]:
    """Inside the block the decoder computes nothing and returns `outputs`."""
    decoder = model.get_decoder()
    before, compiled = decoder.__dict__.get("forward"), decoder._compiled_call_impl
    decoder.forward = lambda *args, **kwargs: outputs
    decoder._compiled_call_impl = None  # it would be called in place of `forward`
    try:
        yield
    finally:
        decoder._compiled_call_impl = compiled
        del decoder.forward
        if before is not None:
            decoder.forward = before
