"""Batches: which examples a step sees, and as which tensors."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from harness.config.job import Job
from harness.data.token_cache import lengths_of
from harness.data.tokenize import Example
from harness.hashing import sha256

STEP = 64  # tokens


def batches(examples: Sequence[Example], *, steps: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Indices of `steps` batches: a seeded permutation per epoch, batches of similar length, in seeded order.

    No batch holds an example twice, so one of a data set smaller than `batch_size` is the whole set. Depends on nothing
    but the lengths and the arguments, so every variant sees the same samples in the same order.
    """
    rng, lengths = random.Random(f"order {seed}"), lengths_of(examples)
    return islice(_endless(rng, lengths.tolist(), min(batch_size, len(lengths))), steps)


def _endless(rng: random.Random, lengths: list[int], size: int) -> Iterator[list[int]]:
    """Batches of all epochs. An epoch's remainder begins the next one's first batch, filled with other examples."""
    window = 32 * size  # lengths are sorted within it: large enough to pad little, small enough to stay random
    left: list[int] = []
    while True:
        order = rng.sample(range(len(lengths)), len(lengths))
        if left:
            fill = [n for n in order if n not in left][: size - len(left)]
            yield left + fill
            order = [n for n in order if n not in fill]
        whole = len(order) // size * size
        order, left = order[:whole], order[whole:]
        for start in range(0, whole, window):
            part = sorted(order[start : start + window], key=lengths.__getitem__)
            ready = [part[k : k + size] for k in range(0, len(part), size)]
            rng.shuffle(ready)
            yield from reversed(ready)


def calibration_batches(examples: Sequence[Example], job: Job, pad: int) -> list[dict[str, Any]]:
    """Training examples, with masks, for variants that read the second moments of their inputs; empty for the others.

    The same examples for every seed, so that seeds share their bases.
    """
    chosen = random.Random("calibration").sample(examples, min(job.calibration_examples, len(examples)))
    batches = []
    for k in range(0, len(chosen), job.batch_size):
        ids = [e.ids for e in chosen[k : k + job.batch_size]]
        inputs = {"input_ids": _padded(ids, pad), "attention_mask": _padded([[1] * len(i) for i in ids], 0)}
        batches.append({name: t.to(job.device) for name, t in inputs.items()})
    return batches


def pad_id(tokenizer: Any) -> int:
    """EOS: padding is masked by position, so any id inside the embedding will do, and a pad token's may lie outside."""
    return int(tokenizer.eos_token_id)


def collate(examples: list[Example], pad: int, device: str) -> tuple[Tensor, Tensor]:
    """ids (B, T) padded on the right, and the flat positions (N,) of response tokens; masked by position, not by id.

    On an accelerator T is a multiple of STEP: kernels are chosen, and memory is kept, for a dozen widths and not for
    hundreds. Right padding changes no label and no loss.
    """
    ids = _padded([e.ids for e in examples], pad)
    if device != "cpu":
        ids = F.pad(ids, (0, -ids.shape[1] % STEP), value=pad)
    labels = []
    for start, e in zip(range(0, ids.numel(), ids.shape[1]), examples, strict=True):
        labels.append(torch.arange(start + e.prompt, start + len(e.ids)))
    return _to(ids, device), _to(torch.cat(labels), device)


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """(B, T), padded on the right."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def order_hash(examples: Sequence[Example], job: Job) -> str:
    """Of the batches that the job trains on, in their order."""
    return sha256(list(batches(examples, steps=job.steps, batch_size=job.batch_size, seed=job.seed)))


def longest_batch(examples: Sequence[Example], size: int, pad: int, device: str) -> tuple[Tensor, Tensor]:
    """The `size` longest examples, collated: the most expensive batch possible."""
    order = (-lengths_of(examples)).argsort(kind="stable")[:size]
    return collate([examples[n] for n in order.tolist()], pad, device)


def _to(tensor: Tensor, device: str) -> Tensor:
    """A copy that does not make the host wait for the device."""
    return tensor.to(device) if device == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
