"""What is trained on and what is asked: batches, clean validation, label positions, file formats."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import query_of, training_rows, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.compose import compositions
from harness.config.job import Source
from harness.config.validate import BadInput, job_from
from harness.data.batches import batches, calibration_batches
from harness.data.held_out import hold_out, normalised
from harness.data.load import Data, load_data
from harness.data.tokenize import Example, _encode, prompt_ids, tokenize
from harness.hashing import sha256
from harness.inputs.base_model import load_tokenizer
from harness.inputs.rows import Question, read_questions, read_rows, stream_rows
from harness.paths import ROOT

PROMPT = "Question: {query} Think step by step.\nAnswer:"


def source(path: Path | None, **columns: str) -> Source:
    return Source(path=str(path), hub=None, subset=None, split="train", revision=None, columns=columns)


def contents(read: Data) -> tuple[Any, ...]:
    return list(read.train), read.valid, read.test, read.counts


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
    examples = of_lengths(lengths)
    made = list(batches(examples, steps=steps, batch_size=batch_size, seed=seed))
    assert [len(b) for b in made] == [batch_size] * steps
    assert made == list(batches(examples, steps=steps, batch_size=batch_size, seed=seed))
    longer = list(batches(examples, steps=steps + 40, batch_size=batch_size, seed=seed))
    assert longer[:steps] == made  # a longer run begins with the same batches
    seen: Counter[int] = Counter(dict.fromkeys(range(len(examples)), 0))
    for k, batch in enumerate(longer, start=1):
        seen.update(batch)
        if k % 32 == 0:
            assert max(seen.values()) - min(seen.values()) <= 1


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


def test_order_of_the_published_records(tmp_path: Path, small_job: Any) -> None:
    """Their order hash and counts were written when all examples were a list in memory: the same from the cache."""
    (path,) = ROOT.glob("runs/published/tiny-tiny__lora__r8__lr0.01__none__s400__seed0/result.json")
    record = json.loads(path.read_text())
    (cfg,) = compositions(["benchmark=tiny", "variant=lora", f"cache_dir={tmp_path}", "threads=1"], multirun=False)
    job = job_from(cfg)
    read = load_data(job, load_tokenizer(job.model))
    order = list(batches(read.train, steps=job.steps, batch_size=job.batch_size, seed=job.seed))
    assert sha256(order) == record["provenance"]["order_hash"]
    assert record["data"].items() <= read.counts.items()


def test_examples_are_chosen_as_from_a_list(small_job: Any, tokenizer: Any) -> None:
    """Batches, calibration examples and slices of the mapped examples are those of the same examples in a list."""
    job = small_job("train.calibration_examples=9", "variant=eva")
    mapped = load_data(job, tokenizer).train
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


def test_every_variant_sees_the_same_samples(small_job: Any, tokenizer: Any) -> None:
    jobs = [small_job(f"variant={v}", *more) for v, *more in (("lora", "rank=3"), ("full",), ("antipasto", "lr=1e-4"))]
    read = [contents(load_data(job, tokenizer)) for job in jobs]
    assert read[0] == read[1] == read[2]
    floor = load_data(small_job("variant=none"), tokenizer)  # reads no training data, answers the same questions
    assert (floor.train, floor.valid, floor.test) == ([], *read[0][1:3])


# -- clean validation -------------------------------------------------------------------------------------------------
def test_no_training_row_comes_from_a_held_out_question(small_job: Any, tokenizer: Any, data_dir: Path) -> None:
    """Rows that differ from the question in case, space and punctuation included; their number is in the record."""
    job = small_job("benchmark.valid_size=9", "benchmark.max_length=100000")
    read = load_data(job, tokenizer)
    assert len(read.valid) == 9
    rows = [json.loads(line) for line in (data_dir / "train.jsonl").read_text().splitlines()]
    asked = {q.text for q in read.valid}
    clean = [r for r in rows if query_of(int(r["query"].split()[2])) not in asked]  # by the numbers of the row itself
    expected = tokenize(clean, job.prompt, tokenizer)
    assert list(read.train) == expected
    assert read.counts == {
        "train_rows": 60,
        "removed_for_validation": 18,
        "over_long": 0,
        "unfit": 0,
        "train_examples": 42,
        "without_original": 0,
        "removed_identical": 0,
        "valid": 9,
        "test": 10,
    }


def test_validation_is_the_same_for_every_seed_and_order(small_job: Any, tokenizer: Any) -> None:
    by_seed = [contents(load_data(small_job(f"seed={s}"), tokenizer)) for s in (0, 7)]
    assert by_seed[0] == by_seed[1]
    asked = [Question(query_of(k), "1") for k in range(50)]
    chosen, keys = hold_out(asked, 20)
    assert set(chosen) == set(hold_out(asked[::-1], 20)[0])
    assert set(hold_out(asked, 10)[0]) <= set(chosen)
    assert keys == {normalised(q.text) for q in chosen}
    assert [q.text for q in chosen] != [query_of(k) for k in range(20)]  # no prefix of the file
    with pytest.raises(BadInput, match=r"^benchmark.valid_size: larger than .*, got 50; expected < 50\.$"):
        hold_out(asked, 50)


def test_training_data_without_originals_is_said(
    small_job: Any, tokenizer: Any, tmp_path: Path, caplog: Any, capsys: Any, monkeypatch: Any
) -> None:
    """A row that repeats a question can be found by its text, whatever the column says; another cannot, and that is
    counted and said: the same from the cache, and once per process.
    """
    asked = load_data(small_job(), tokenizer).valid[0].text
    rows = [{"query": query_of(100 + k), "original_question": query_of(k), "response": "1"} for k in range(100, 111)]
    rows[3] = {"query": f"  {asked.upper()} ", "response": "1"}
    rows[5] |= {"query": asked}  # says that it comes from another question
    rows[7]["original_question"] = " . "
    rows[8]["original_question"] = float("nan")  # how pandas writes a missing text
    job = small_job(f"data.train.path={write_jsonl(tmp_path / 'some.jsonl', rows)}")
    for _ in range(2):
        monkeypatch.setattr(preparation, "_kept", {})
        monkeypatch.setattr(data, "_said", set())
        caplog.clear()
        capsys.readouterr()
        with caplog.at_level(logging.WARNING):
            counts = load_data(job, tokenizer).counts
            assert load_data(job, tokenizer).counts == counts
        assert (counts["train_rows"], counts["removed_for_validation"], counts["train_examples"]) == (11, 2, 9)
        assert (counts["without_original"], counts["removed_identical"]) == (3, 1)
        assert caplog.messages == [
            "data.train: 3 of 11 rows have no original_question: those that are augmented copies of validation "
            "questions cannot be found; only identical questions were removed, 1 of them"
        ]
        assert capsys.readouterr().out == (
            "data: 6 validation and 10 test questions; "
            "11 training rows, 2 removed for validation, 0 over-long, 0 unfit, 9 left\n"
        )


# -- tokens -----------------------------------------------------------------------------------------------------------
def test_labels_are_the_response_and_one_eos(tokenizer: Any) -> None:
    """Whatever the text: braces, an EOS or white space at its end, letters of several bytes."""
    texts = ["a {x} }{", "ends in EOS<|end|>", " two \n lines \n", "½ − 3", "#### 18\nThe answer is: 18"]
    rows = [{"query": f"{t}?", "response": t} for t in texts]
    for row, example in zip(rows, tokenize(rows, PROMPT, tokenizer), strict=True):
        assert example is not None
        ids = list(example.ids)
        prompt, response = tokenizer.decode(ids[: example.prompt]), ids[example.prompt :]
        assert prompt == f"Question: {row['query']} Think step by step.\nAnswer:"
        assert ids[: example.prompt] == prompt_ids(PROMPT, [row["query"]], tokenizer)[0]  # what evaluation will feed
        assert response[-1] == tokenizer.eos_token_id
        assert response.count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(response[:-1]) == " " + row["response"].strip().removesuffix("<|end|>")


def test_prompts_that_are_no_prefix(small_job: Any, tokenizer: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Training would be on prompts that are never asked: rare rows are left out and counted, a template is refused."""
    rows = [{"query": f"{k}?", "original_question": f"{k}?", "response": "1"} for k in range(250)]
    rows[77]["query"] = rows[200]["query"] = "MERGED"
    true_encode = _encode

    def merging(template: str, texts: list[str], parts: Any, tokenizer: Any) -> list[list[int]]:
        ids = true_encode(template, texts, parts, tokenizer)
        return [[len(t), *i[1:]] if "MERGED" in t else i for t, i in zip(texts, ids, strict=True)]

    monkeypatch.setattr("harness.tokens._encode", merging)
    job = small_job(f"data.train.path={write_jsonl(tmp_path / 'rare.jsonl', rows)}")
    read = load_data(job, tokenizer)
    assert (read.counts["unfit"], read.counts["train_examples"], len(read.train)) == (2, 248, 248)
    for k in (10, 20):
        rows[k]["query"] = "MERGED"
    job = small_job(f"data.train.path={write_jsonl(tmp_path / 'many.jsonl', rows)}")
    with pytest.raises(
        BadInput, match=r"^benchmark.prompt: its tokens .*, in 4 of 250 rows \(first .*many.jsonl:11\), "
    ):
        load_data(job, tokenizer)
    assert not list(job.cache_dir.rglob("*.part"))


def test_over_long_examples_are_dropped_whole_and_counted(small_job: Any, tokenizer: Any) -> None:
    everything = load_data(small_job("benchmark.max_length=100000"), tokenizer)
    lengths = sorted(len(e.ids) for e in everything.train)
    limit = lengths[len(lengths) // 2]
    half = load_data(small_job(f"benchmark.max_length={limit}"), tokenizer)
    assert list(half.train) == [e for e in everything.train if len(e.ids) <= limit]
    assert half.counts["over_long"] == len(everything.train) - len(half.train) > 0
    with pytest.raises(BadInput, match=r"^data.train: no example left .*'over_long': 48.* Raise benchmark"):
        load_data(small_job("benchmark.max_length=8"), tokenizer)


def test_limit_takes_the_first_questions(small_job: Any, tokenizer: Any) -> None:
    """Of both splits, and without changing what is held out of training."""
    all_of_it, some = (load_data(small_job(w), tokenizer) for w in ("eval.limit=null", "eval.limit=3"))
    assert (some.valid, some.test) == (all_of_it.valid[:3], all_of_it.test[:3])
    assert list(some.train) == list(all_of_it.train)


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


def test_arrays_are_read_like_lines(tmp_path: Path, monkeypatch: Any) -> None:
    """Whatever the white space, and however chunks cut texts, escapes and separators; the first row before the last."""
    rows = [{"query": f'a"]}},[{{\\ {"½" * k} \n', "n": [k, {"x": None}], "response": "b" * k} for k in range(1, 40)]
    texts = [
        json.dumps(rows),
        json.dumps(rows, indent=3, ensure_ascii=False),
        " \n[\n" + " , ".join(map(json.dumps, rows)),
    ]
    texts[2] += "\t]\n \n"
    columns = {"query": "query", "response": "response"}
    expected = [{k: r[k] for k in columns} for r in rows]
    for size in (8, 13, 64, 2**16):
        monkeypatch.setattr("harness.sources.CHUNK", size)
        for n, text in enumerate(texts):
            (tmp_path / f"{n}.json").write_text(text, encoding="utf-8")
            assert read_rows(source(tmp_path / f"{n}.json", **columns), "x", needed=("query",)) == expected
    (tmp_path / "broken.json").write_text(json.dumps(rows)[:-9])
    stream = stream_rows(source(tmp_path / "broken.json", **columns), "x", needed=("query",))
    assert [next(stream) for _ in rows[1:]] == expected[:-1]
    with pytest.raises(BadInput, match=r":39: not JSON \(.*\), got '.*'; expected an array of objects\.$"):
        next(stream)


ARRAYS = [
    (b"[]", r"^x: no rows, got '.*'; expected at least one row\.$"),
    (b"[", r":1: not JSON \(Expecting value\), got ''; expected an array of objects\.$"),
    (b'[{"a": "b"} {"a": "b"}]', r":2: not JSON \(Expecting ',' delimiter\), got ' ?\{\"a\".*"),
    (b'[{"a": "b"},]', r":2: not JSON \(Expecting value\), got ',\]'; .*"),
    (b'[{"a": "b"}] [', r":2: text after the array, got '\['; expected the end of the file\.$"),
    (b'[{"a": "b"}, 7]', r":2: not a row, got 7; expected .*"),
    (
        b'[{"a": "b"}, {"a": "' + b"c" * 300 + b"\xff" + b'"}]',
        r"^x.path: not UTF-8 text \(.* at byte 320\), got '.*'\.$",
    ),
    (b'{"a": "b"}\n{"a": "\xff"}\n', r"^x.path: not UTF-8 text \(.* at byte 18\), got '.*'\.$"),
]


@pytest.mark.parametrize(("content", "message"), ARRAYS, ids=[repr(c[:24]) for c, _ in ARRAYS])
def test_broken_arrays_name_the_row(tmp_path: Path, monkeypatch: Any, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    for size in (8, 2**16):
        monkeypatch.setattr("harness.sources.CHUNK", size)
        with pytest.raises(BadInput, match=message):
            read_rows(source(tmp_path / "a.json", a="a"), "x", needed=("a",))


def test_columns_are_mapped_by_name(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"q": "1+1?", "a": "#### 2", "question": "not this"}])
    assert read_questions(source(path, question="q", answer="a"), "data.test") == [Question("1+1?", "#### 2")]
    with pytest.raises(BadInput, match=r"^data.test.columns: no column is given for answer; expected answer: "):
        read_questions(source(path, question="q"), "data.test")
