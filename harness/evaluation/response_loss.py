"""Loss of the reference responses to held-out questions: what an adapter learned that right or wrong does not show.

The text is the training text of the question and its reference (harness/data/tokenize.py), fed in whole (teacher
forcing); the loss is on the response and EOS. It is finer than accuracy: each question gives a number, not a bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

import adapters as ad
from harness.config.job import Job
from harness.data.batches import collate, pad_id
from harness.data.tokenize import Example, tokenize
from harness.evaluation.forgetting import positions_of
from harness.evaluation.metrics import LARGEST_NATS, ResponseLoss, to_nats
from harness.inputs.rows import Question
from harness.loss import label_losses

TOKENS = 2**14  # padded tokens of a batch: bounds its activations, whatever the longest text


def reference_texts(questions: list[Question], template: str, tokenizer: Any) -> list[Example | None]:
    """Training texts of the reference answers; None as in `tokenize`. Raises BadInput as that does."""
    return tokenize([{"query": q.text, "response": q.reference} for q in questions], template, tokenizer)


def response_loss(
    model: Any, tokenizer: Any, questions: list[Question], job: Job, tick: Callable[[str], None]
) -> ResponseLoss:
    """Loss of the references to all questions. tick: called with an empty text between batches; it may raise."""
    longest, texts = positions_of(model) or math.inf, reference_texts(questions, job.prompt, tokenizer)
    fitting = {n: text for n, text in enumerate(texts) if text is not None and len(text.ids) <= longest}
    nats = [math.nan] * len(texts)
    with torch.no_grad(), ad.frozen(model):
        for places in _batches({n: len(text.ids) for n, text in fitting.items()}):
            tick("")
            batch = [fitting[n] for n in places]
            losses = label_losses(model, *collate(batch, pad_id(tokenizer), job.device))
            sums = torch.stack([part.sum() for part in losses.split([text.labels for text in batch])])
            for n, value in zip(places, sums.tolist(), strict=True):
                nats[n] = value if value < LARGEST_NATS else LARGEST_NATS  # NaN too: no probability at all
    tokens = sum(text.labels for text in fitting.values())
    loss = sum(nats[n] for n in fitting) / max(1, tokens)
    return {"response_loss": loss, "response_tokens": tokens, "response_nats": to_nats(nats)}


def _batches(lengths: dict[int, int]) -> Iterator[list[int]]:
    """Places by length, the longest first. They depend on the texts alone: in 8-bit a row depends on its batch."""
    batch: list[int] = []
    for place in sorted(lengths, key=lambda n: (-lengths[n], n)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > TOKENS:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
