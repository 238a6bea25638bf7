"""What is trained on and what is asked: batches, clean validation, label positions, file formats."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import query_of, training_rows, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data import (
    Example,
    batches,
    hold_out,
    load_data,
    normalised,
    remove_held_out,
    tokenize,
)
from harness.job import BadInput, Source
from harness.sources import Question, read_questions, read_rows

PROMPT = "Question: {query} Think step by step.\nAnswer:"


def source(path: Path | None, **columns: str) -> Source:
    return Source(path=str(path), hub=None, subset=None, split="train", revision=None, columns=columns)


def of_lengths(lengths: list[int]) -> list[Example]:
    return [Example((0,) * n, 1) for n in lengths]


# -- batches ----------------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 50), min_size=1, max_size=300),
    batch_size=st.integers(1, 7),
    steps=st.integers(1, 200),
    seed=st.integers(0, 10**6),
)
def test_batches_are_epochs_of_permutations(lengths: list[int], batch_size: int, steps: int, seed: int) -> None:
    """Whole batches; after every window of 32 batches no example was seen more than once oftener than another."""
    data = of_lengths(lengths)
    made = list(batches(data, steps=steps, batch_size=batch_size, seed=seed))
    assert [len(b) for b in made] == [batch_size] * steps
    assert made == list(batches(data, steps=steps, batch_size=batch_size, seed=seed))
    longer = list(batches(data, steps=steps + 40, batch_size=batch_size, seed=seed))
    assert longer[:steps] == made  # a longer run begins with the same batches
    seen: Counter[int] = Counter(dict.fromkeys(range(len(data)), 0))
    for k, batch in enumerate(longer, start=1):
        seen.update(batch)
        if k % 32 == 0:
            assert max(seen.values()) - min(seen.values()) <= 1


def test_batches_are_bucketed_shuffled_and_seeded() -> None:
    lengths = [2 + (n * 37) % 97 for n in range(2048)]
    data = of_lengths(lengths)
    made = list(batches(data, steps=128, batch_size=16, seed=0))
    padded = sum(max(lengths[n] for n in b) * len(b) for b in made)
    assert padded < 1.08 * sum(lengths[n] for b in made for n in b)  # random batches of these: 1.9
    first = [sum(lengths[n] for n in b) / 16 for b in made[:32]]
    assert first != sorted(first)
    assert first != sorted(first, reverse=True)
    other = list(batches(data, steps=128, batch_size=16, seed=1))
    assert other != made
    assert sorted(n for b in other for n in b) == sorted(n for b in made for n in b) == list(range(2048))


def test_every_variant_sees_the_same_samples(small_job: Any, tokenizer: Any) -> None:
    jobs = [small_job(f"variant={v}", *more) for v, *more in (("lora", "rank=3"), ("full",), ("antipasto", "lr=1e-4"))]
    data = [load_data(job, tokenizer) for job in jobs]
    assert data[0] == data[1] == data[2]
    floor = load_data(small_job("variant=none"), tokenizer)  # reads no training data, answers the same questions
    assert (floor.train, floor.valid, floor.test) == ([], data[0].valid, data[0].test)


# -- clean validation -------------------------------------------------------------------------------------------------
def test_no_training_row_comes_from_a_held_out_question(small_job: Any, tokenizer: Any, data_dir: Path) -> None:
    """Rows that differ from the question in case, space and punctuation included; their number is in the record."""
    job = small_job("benchmark.valid_size=9", "benchmark.max_length=100000")
    data = load_data(job, tokenizer)
    assert len(data.valid) == 9
    rows = [json.loads(line) for line in (data_dir / "train.jsonl").read_text().splitlines()]
    asked = {q.text for q in data.valid}
    clean = [r for r in rows if query_of(int(r["query"].split()[2])) not in asked]  # by the numbers of the row itself
    expected = tokenize(clean, job.prompt, tokenizer)
    assert data.train == expected
    assert data.counts == {
        "train_rows": 60,
        "removed_for_validation": 18,
        "over_long": 0,
        "train_examples": 42,
        "valid": 9,
        "test": 10,
    }


def test_validation_is_the_same_for_every_seed_and_order(small_job: Any, tokenizer: Any) -> None:
    by_seed = [load_data(small_job(f"seed={s}"), tokenizer) for s in (0, 7)]
    assert by_seed[0] == by_seed[1]
    asked = [Question(query_of(k), "1") for k in range(50)]
    chosen, keys = hold_out(asked, 20)
    assert set(chosen) == set(hold_out(asked[::-1], 20)[0])
    assert set(hold_out(asked, 10)[0]) <= set(chosen)
    assert keys == {normalised(q.text) for q in chosen}
    assert [q.text for q in chosen] != [query_of(k) for k in range(20)]  # no prefix of the file
    with pytest.raises(BadInput, match=r"^benchmark.valid_size: larger than .*, got 50; expected < 50\.$"):
        hold_out(asked, 50)


def test_training_data_without_originals_is_said(caplog: Any) -> None:
    """Without the column only rows that repeat a question can be found."""
    rows = [{"query": query_of(k), "response": "1"} for k in range(3)]
    with caplog.at_level(logging.WARNING):
        assert remove_held_out(rows, {normalised(query_of(1))}) == [rows[0], rows[2]]
    assert "no original_question column" in caplog.text


# -- tokens -----------------------------------------------------------------------------------------------------------
def test_labels_are_the_response_and_one_eos(tokenizer: Any) -> None:
    """Whatever the text: braces, an EOS or white space at its end, letters of several bytes."""
    texts = ["a {x} }{", "ends in EOS<|end|>", " two \n lines \n", "½ − 3", "#### 18\nThe answer is: 18"]
    rows = [{"query": f"{t}?", "response": t} for t in texts]
    for row, example in zip(rows, tokenize(rows, PROMPT, tokenizer), strict=True):
        ids = list(example.ids)
        prompt, response = tokenizer.decode(ids[: example.prompt]), ids[example.prompt :]
        assert prompt == f"Question: {row['query']} Think step by step.\nAnswer:"
        assert ids[: example.prompt] == tokenizer(prompt)["input_ids"]  # what evaluation will feed
        assert response[-1] == tokenizer.eos_token_id
        assert response.count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(response[:-1]) == " " + row["response"].strip().removesuffix("<|end|>")


def test_prompts_that_are_no_prefix_are_refused(tokenizer: Any) -> None:
    """A tokenizer that ends every text with EOS, or merges across the border, would train on prompts never asked."""

    class Merging:
        eos_token_id = 0

        def __call__(self, texts: list[str]) -> dict[str, list[list[int]]]:
            return {"input_ids": [[len(t), 0] for t in texts]}

    with pytest.raises(BadInput, match=r"^benchmark.prompt: its tokens are no prefix .*, got '.*'\. "):
        tokenize([{"query": "a", "response": "b"}], PROMPT, Merging())


def test_over_long_examples_are_dropped_whole_and_counted(small_job: Any, tokenizer: Any) -> None:
    everything = load_data(small_job("benchmark.max_length=100000"), tokenizer)
    lengths = sorted(len(e.ids) for e in everything.train)
    limit = lengths[len(lengths) // 2]
    half = load_data(small_job(f"benchmark.max_length={limit}"), tokenizer)
    assert half.train == [e for e in everything.train if len(e.ids) <= limit]
    assert half.counts["over_long"] == len(everything.train) - len(half.train) > 0
    with pytest.raises(BadInput, match=r"^data.train: no example left .*'over_long': 48.* Raise benchmark"):
        load_data(small_job("benchmark.max_length=8"), tokenizer)


def test_limit_takes_the_first_questions(small_job: Any, tokenizer: Any) -> None:
    """Of both splits, and without changing what is held out of training."""
    all_of_it, some = (load_data(small_job(w), tokenizer) for w in ("eval.limit=null", "eval.limit=3"))
    assert (some.valid, some.test) == (all_of_it.valid[:3], all_of_it.test[:3])
    assert some.train == all_of_it.train


# -- files ------------------------------------------------------------------------------------------------------------
def test_formats_give_the_same_rows(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = training_rows(7)
    jsonl = write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=2))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "c.parquet")
    (tmp_path / "d.jsonl").write_bytes(jsonl.read_bytes().rstrip(b"\n").replace(b"\n", b"\r\n"))
    columns = {"query": "query", "response": "response"}
    found = [read_rows(source(p, **columns), "x", needed=("query",)) for p in sorted(tmp_path.iterdir())]
    assert len(found) == 4
    assert all(f == [{k: r[k] for k in columns} for r in rows] for f in found)


def test_columns_are_mapped_by_name(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"q": "1+1?", "a": "#### 2", "question": "not this"}])
    assert read_questions(source(path, question="q", answer="a"), "data.test") == [Question("1+1?", "#### 2")]
    with pytest.raises(BadInput, match=r"^data.test.columns: no column is given for answer; expected answer: "):
        read_questions(source(path, question="q"), "data.test")
