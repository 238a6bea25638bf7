"""The compacting decoder against one-by-one `model.generate`."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from harness.evaluation.generate import CHECK_EVERY, PREFILL, Batch, Generated, generate
from harness.evaluation.kv_cache import STEP, KeyValueCache, takes_additive_mask
from tests.conftest import make_model

LIMIT = 24


def prompts(tokenizer: Any, count: int = 40) -> list[list[int]]:
    """Lengths from 1 to 60, in no order."""
    rng = random.Random(1)
    return [[rng.randrange(2, len(tokenizer)) for _ in range(rng.randrange(1, 60))] for _ in range(count)]


def one_by_one(model: Any, asked: list[list[int]], eos: set[int], limit: int = LIMIT) -> list[Generated]:
    """transformers' own greedy decoding, a prompt at a time: no batch, no padding, no cache of ours."""
    out = []
    for p in asked:
        ids = torch.tensor([p])
        mask = torch.ones_like(ids)
        full = model.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=limit,
            eos_token_id=sorted(eos),
            pad_token_id=1,
        )
        tokens = full[0, len(p) :].tolist()
        ended = tokens[-1] in eos
        out.append(Generated(tokens[:-1] if ended else tokens, ended))
    return out


@pytest.fixture(scope="module")
def reference(tokenizer: Any) -> list[Generated]:
    """Every prompt alone, up to the limit."""
    return one_by_one(make_model(len(tokenizer)), prompts(tokenizer), {0})


@pytest.fixture(scope="module")
def eos(reference: list[Generated]) -> set[int]:
    """Three ids that the random model really emits, so that texts end at many different lengths."""
    emitted = [t for g in reference for t in g.tokens[1:]]
    return set(sorted(set(emitted), key=lambda t: (-emitted.count(t), t))[2:4]) | {0}


@pytest.fixture(scope="module")
def expected(tokenizer: Any, eos: set[int]) -> list[Generated]:
    return one_by_one(make_model(len(tokenizer)), prompts(tokenizer), eos)


def never(tokens: list[int]) -> bool:
    return False


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_texts_equal_one_by_one_generate(
    model: Any, tokenizer: Any, eos: set[int], expected: list[Generated], batch_size: int, compact: bool
) -> None:
    """40 prompts of mixed lengths: refills, drops and trimmed padding change no token and no order."""
    asked = prompts(tokenizer)
    ended = [g.finished for g in expected]
    assert 5 < sum(ended) < 35  # rows leave at different times, and some reach the limit
    got = generate(
        model,
        asked,
        eos=eos,
        pad=tokenizer.pad_token_id,
        batch_size=batch_size,
        max_new_tokens=LIMIT,
        complete=never,
        compact=compact,
    )
    assert got == expected


def test_pad_that_is_eos_and_a_limit_of_one_token(
    model: Any, tokenizer: Any, eos: set[int], expected: list[Generated]
) -> None:
    asked = prompts(tokenizer)
    kw = {"eos": eos, "pad": min(eos), "batch_size": 8, "complete": never}
    assert generate(model, asked, max_new_tokens=LIMIT, **kw) == expected
    assert generate(model, asked, max_new_tokens=1, **kw) == one_by_one(model, asked, eos, limit=1)
    assert generate(model, [], max_new_tokens=5, **kw) == []


def test_rows_are_refilled_dropped_and_trimmed(model: Any, tokenizer: Any, eos: set[int], monkeypatch: Any) -> None:
    """The paths above really run: fewer forwards than fixed batches need, and the cache's padding is cut."""
    asked = prompts(tokenizer)
    widths: list[tuple[int, int]] = []
    forward = Batch._forward

    def counted(self: Any, ids: Any, mask: Any, positions: Any) -> Any:
        widths.append((len(ids), self.cache.window.seen + ids.shape[1]))
        if mask is not None:
            real = (mask if mask.ndim == 2 else mask[:, 0, 0] + 1) > 0
            assert real.shape == widths[-1]
            assert bool((real.sum(1) > 0).all())
            assert bool(real[:, 0].any())  # no column is padding in every row
            assert not bool(real.all())  # a mask that masks nothing costs time
        return forward(self, ids, mask, positions)

    monkeypatch.setattr(Batch, "_forward", counted)
    kw = {"eos": eos, "pad": 1, "batch_size": 8, "max_new_tokens": LIMIT, "complete": never}
    generate(model, asked, **kw)
    rows = sum(b for b, _ in widths)
    widths.clear()
    generate(model, asked, compact=False, **kw)
    assert rows < 0.9 * sum(b for b, _ in widths)


@pytest.mark.parametrize("compact", [True, False])
def test_a_complete_answer_stops_its_row_alone(
    model: Any, tokenizer: Any, reference: list[Generated], compact: bool
) -> None:
    """Where a row stops depends on its own tokens, whatever else is in the batch; its text begins generate's."""
    asked = prompts(tokenizer)
    wanted = reference[3].tokens[5]

    def complete(tokens: list[int]) -> bool:
        return wanted in tokens

    kw = {"eos": {0}, "pad": 1, "max_new_tokens": LIMIT, "complete": complete, "compact": compact}
    alone = [generate(model, [p], batch_size=1, **kw)[0] for p in asked]
    together = generate(model, asked, batch_size=8, **kw)
    assert together == alone
    assert any(len(a.tokens) < len(e.tokens) for a, e in zip(alone, reference, strict=True))
    for short, long in zip(alone, reference, strict=True):
        assert short.tokens == long.tokens[: len(short.tokens)]
        if wanted in long.tokens[: LIMIT - CHECK_EVERY]:
            assert short.finished
            assert wanted in short.tokens[-CHECK_EVERY:]


SLIDING = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}


@pytest.mark.parametrize(("settings", "additive"), [({}, True), (SLIDING, False)], ids=["full", "sliding"])
def test_the_cache_grows_and_longer_prompts_join(
    tokenizer: Any, monkeypatch: Any, settings: dict[str, Any], additive: bool
) -> None:
    """Buffers grow to the right several times, and to the left under rows in work; what nobody wrote in them is NaN."""
    model, limit = make_model(len(tokenizer), **settings), STEP + 20
    assert takes_additive_mask(model) is additive
    rng = random.Random(3)
    lengths = (3, 7, 5, 30, 60, 6, 90, 20, 70, *range(14, 2, -1))
    asked = [[rng.randrange(2, len(tokenizer)) for _ in range(n)] for n in lengths]
    grown: list[str] = []

    def noted(self: Any, first: int, end: int, rows: int) -> bool:
        left = first < self.window.origin
        moved = reserve(self, first, end, rows)
        if moved and rows:
            grown.append("left" if left else "right")
        return moved

    reserve = KeyValueCache.reserve
    monkeypatch.setattr(KeyValueCache, "reserve", noted)
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda t, *shape: t.new_full(shape, float("nan")))
    complete = lambda tokens: sum(tokens) % 9 == 0
    got = generate(model, asked, eos={0}, pad=1, batch_size=3, max_new_tokens=limit, complete=complete)

    def until_complete(g: Generated) -> Generated:
        checked = range(CHECK_EVERY, len(g.tokens) + 1, CHECK_EVERY)
        ends = [n for n in checked if complete(g.tokens[:n])]
        return Generated(g.tokens[: ends[0]], True) if ends else g

    assert got == [until_complete(g) for g in one_by_one(model, asked, {0}, limit)]
    assert grown.count("right") >= 2
    assert "left" in grown


def test_a_cpu_prefills_in_groups_unless_batches_are_fixed(
    model: Any, tokenizer: Any, monkeypatch: Any, eos: set[int], expected: list[Generated]
) -> None:
    """No group has more than PREFILL tokens; in 8-bit, where a row depends on its batch, a batch is one group."""
    asked, shapes = prompts(tokenizer), []
    forward = Batch._forward

    def noted(self: Any, ids: Any, mask: Any, positions: Any) -> Any:
        if not self.cache.window.seen:
            shapes.append(tuple(ids.shape))
        return forward(self, ids, mask, positions)

    monkeypatch.setattr(Batch, "_forward", noted)
    kw = {"eos": eos, "pad": 1, "batch_size": 40, "max_new_tokens": LIMIT, "complete": never}
    assert generate(model, asked, **kw) == expected
    assert sum(rows for rows, _ in shapes) == len(asked)
    assert len(shapes) > 1
    assert max(rows * width for rows, width in shapes) <= PREFILL
    shapes.clear()
    assert generate(model, asked, compact=False, **kw) == expected
    assert shapes == [(40, max(map(len, asked)))]
