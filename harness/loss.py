"""Cross-entropy on label positions only, in chunks, so that full-vocabulary logits never exist for the whole batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import masking_utils

from harness.errors import refuse

CHUNK = 1024  # most label positions whose logits exist at one time
LOGITS = 2**25  # most logits that exist at one time; several fp32 copies of 128 MiB each are made of them


def label_loss_sum(
    model: Any, ids: Int[Tensor, "B T"], labels: Int[Tensor, " N"], chunk: int | None = None
) -> Float[Tensor, ""]:
    """Sum over label positions of −log p(token | what is before it), in nats; fp32 or wider.

    labels: positions of the predicted tokens in the flattened ids (a boolean mask would make CUDA wait for its count).
    Rows are padded on the right and no attention mask is given: under causal attention no real token sees what follows
    it, and without a mask the fast attention kernels apply. chunk: positions at one time; None: what CHUNK and LOGITS
    allow (a vocabulary of 151,936 leaves 220).
    """
    with _unpacked_rows():
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state  # (B, T, H)
    chosen = hidden.flatten(0, 1)[labels - 1]  # (N, H): the state before each label
    targets = ids.flatten()[labels]  # (N,)
    head = model.get_output_embeddings()
    if chunk is None:
        chunk = min(CHUNK, max(1, LOGITS // head.weight.shape[0]))
    if chosen.shape[0] <= chunk:
        return _chunk_loss(head, chosen, targets)
    total = chosen.new_zeros((), dtype=torch.promote_types(torch.float32, chosen.dtype))
    for states, wanted in zip(chosen.split(chunk), targets.split(chunk), strict=True):
        # Recomputed in the backward pass: kept, the chunks' logits would add up to what chunking avoids.
        total = total + checkpoint(_chunk_loss, head, states, wanted, use_reentrant=False)
    return total


@torch.no_grad()
def refuse_scaled_logits(model: Any, name: str) -> None:
    """Raises BadInput for models that scale or cap their logits: the loss here, by the bare head, would not see it.

    The head is made to answer with known numbers, large enough for any cap: the model must return just these, and must
    have given the head its decoder's states as they are.
    """
    ids = torch.arange(8, device=next(model.parameters()).device).unsqueeze(0)
    head, given = model.get_output_embeddings(), []

    def known(logits: Tensor) -> Tensor:
        return torch.linspace(-1000, 1000, logits.shape[-1], device=logits.device).to(logits.dtype).expand_as(logits)

    def answer(_: Any, args: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        given.append(args[0])
        return known(logits)

    hook = head.register_forward_hook(answer)
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    if not torch.equal(logits, known(logits)) or not torch.allclose(given[0], hidden, rtol=1e-2, atol=1e-2):
        what = "this model scales or caps its logits, which training here does not support"
        raise refuse("model.id", what, got=name, remedy="Choose another model.")


@contextmanager
def _unpacked_rows() -> Iterator[None]:
    """Every row is one text. Without a mask transformers would look for several, which makes the host wait."""
    looks = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = looks


def _chunk_loss(head: Any, states: Float[Tensor, "N H"], targets: Int[Tensor, " N"]) -> Float[Tensor, ""]:
    logits = head(states)
    return F.cross_entropy(logits.to(torch.promote_types(torch.float32, logits.dtype)), targets, reduction="sum")
