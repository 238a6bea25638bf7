"""Batches: epochs of permutations, bucketed by length, the same for every variant."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.compose import compositions
from harness.config.validate import job_from
from harness.data.batches import batches, calibration_batches
from harness.data.tokenize import Example
from harness.hashing import sha256
from harness.inputs.base_model import load_tokenizer
from harness.paths import ROOT
from tests.conftest import data_of


def of_lengths(lengths: list[int]) -> list[Example]:
    return [Example((0,) * n, 1) for n in lengths]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 50), min_size=1, max_size=300),
    batch_size=st.integers(1, 7),
    steps=st.integers(1, 200),
    seed=st.integers(0, 10**6),
)
def test_batches_are_epochs_of_permutations(lengths: list[int], batch_size: int, steps: int, seed: int) -> None:
    """Whole batches without copies; after every batch, no example was seen more than once oftener than another."""
    examples = of_lengths(lengths)
    made = list(batches(examples, steps=steps, batch_size=batch_size, seed=seed))
    assert [len(b) for b in made] == [min(batch_size, len(lengths))] * steps
    assert made == list(batches(examples, steps=steps, batch_size=batch_size, seed=seed))
    longer = list(batches(examples, steps=steps + 40, batch_size=batch_size, seed=seed))
    assert longer[:steps] == made  # a longer run begins with the same batches
    seen: Counter[int] = Counter(dict.fromkeys(range(len(examples)), 0))
    for batch in longer:
        assert len(set(batch)) == len(batch)
        seen.update(batch)
        assert max(seen.values()) - min(seen.values()) <= 1


def test_order_of_the_first_epoch_is_that_of_version_1() -> None:
    """Up to the first epoch's last whole window, the order is what it was when a window could cross two epochs."""
    lengths = [2 + (n * 37) % 97 for n in range(700)]
    rng, expected = random.Random("order 5"), []
    order = rng.sample(range(700), 700)
    for start in range(0, 640, 128):  # windows of 32 batches of 4
        window = sorted(order[start : start + 128], key=lengths.__getitem__)
        ready = [window[k : k + 4] for k in range(0, 128, 4)]
        rng.shuffle(ready)
        expected += ready[::-1]
    assert list(batches(of_lengths(lengths), steps=160, batch_size=4, seed=5)) == expected


def test_batches_are_bucketed_shuffled_and_seeded() -> None:
    lengths = [2 + (n * 37) % 97 for n in range(2048)]
    examples = of_lengths(lengths)
    made = list(batches(examples, steps=128, batch_size=16, seed=0))
    padded = sum(max(lengths[n] for n in b) * len(b) for b in made)
    assert padded < 1.08 * sum(lengths[n] for b in made for n in b)  # random batches of these: 1.9
    first = [sum(lengths[n] for n in b) / 16 for b in made[:32]]
    assert first != sorted(first)
    assert first != sorted(first, reverse=True)
    other = list(batches(examples, steps=128, batch_size=16, seed=1))
    assert other != made
    assert sorted(n for b in other for n in b) == sorted(n for b in made for n in b) == list(range(2048))


@pytest.mark.slow
def test_order_of_the_published_records(tmp_path: Path, small_job: Any) -> None:
    """Their order hash and counts were written when all examples were a list in memory: the same from the cache."""
    (path,) = ROOT.glob("runs/published/tiny-tiny__lora__r8__lr0.01__none__s250__seed0/result.json")
    record = json.loads(path.read_text())
    (cfg,) = compositions(["benchmark=tiny", "variant=lora", f"cache_dir={tmp_path}", "threads=1"], multirun=False)
    job = job_from(cfg)
    read = data_of(job, load_tokenizer(job.model))
    order = list(batches(read.train, steps=job.steps, batch_size=job.batch_size, seed=job.seed))
    assert sha256(order) == record["provenance"]["order_hash"]
    assert record["data"].items() <= read.counts.items()


def test_examples_are_chosen_as_from_a_list(small_job: Any, tokenizer: Any) -> None:
    """Batches, calibration examples and slices of the mapped examples are those of the same examples in a list."""
    job = small_job("train.calibration_examples=9", "variant=eva")
    mapped = data_of(job, tokenizer).train
    plain = list(mapped)
    assert mapped[-1] == plain[-1]
    assert mapped[5:2:-1] == plain[5:2:-1]
    with pytest.raises(IndexError):
        mapped[len(plain)]
    orders = [list(batches(e, steps=50, batch_size=4, seed=3)) for e in (mapped, plain)]
    assert orders[0] == orders[1]
    read = [calibration_batches(e, job, pad=0) for e in (mapped, plain)]
    assert len(read[0]) == 3
    chosen = random.Random("calibration").sample(plain, 9)  # as before they were mapped
    rows = [
        r[: int(m.sum())].tolist() for b in read[0] for r, m in zip(b["input_ids"], b["attention_mask"], strict=True)
    ]
    assert rows == [list(e.ids) for e in chosen]
    assert all(torch.equal(a[k], b[k]) for a, b in zip(*read, strict=True) for k in a)
