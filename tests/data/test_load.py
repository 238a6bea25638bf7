"""What is trained on and what is asked: clean validation, label positions, over-long and unfit rows."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from harness.config.validate import BadInput
from harness.data.held_out import hold_out, normalised
from harness.data.load import Data
from harness.data.tokenize import _encode, prompt_ids, tokenize
from harness.inputs.rows import Question
from tests.conftest import data_of, query_of, write_jsonl

PROMPT = "Question: {query} Think step by step.\nAnswer:"


def contents(read: Data) -> tuple[Any, ...]:
    return list(read.train), read.valid, read.test, read.counts


def test_every_variant_sees_the_same_samples(small_job: Any, tokenizer: Any) -> None:
    jobs = [small_job(f"variant={v}", *more) for v, *more in (("lora", "rank=3"), ("full",), ("antipasto", "lr=1e-4"))]
    read = [contents(data_of(job, tokenizer)) for job in jobs]
    assert read[0] == read[1] == read[2]
    floor = data_of(small_job("variant=none"), tokenizer)  # reads no training data, answers the same questions
    assert (floor.train, floor.valid, floor.test) == ([], *read[0][1:3])


# -- clean validation -------------------------------------------------------------------------------------------------
def test_no_training_row_comes_from_a_held_out_question(small_job: Any, tokenizer: Any, data_dir: Path) -> None:
    """Rows that differ from the question in case, space and punctuation included; their number is in the record."""
    job = small_job("benchmark.valid_size=9", "benchmark.max_length=100000")
    read = data_of(job, tokenizer)
    assert len(read.valid) == 9
    rows = [json.loads(line) for line in (data_dir / "train.jsonl").read_text().splitlines()]
    asked = {q.text for q in read.valid}
    clean = [r for r in rows if query_of(int(r["query"].split()[2])) not in asked]  # by the numbers of the row itself
    expected = tokenize(clean, job.prompt, tokenizer)
    assert list(read.train) == expected
    assert read.counts == {
        "train_rows": 60,
        "removed_for_validation": 18,
        "removed_for_test": 0,
        "over_long": 0,
        "unfit": 0,
        "train_examples": 42,
        "without_original": 0,
        "removed_identical": 0,
        "valid_unmatched": 0,
        "valid": 9,
        "test": 10,
        "valid_in_test": 0,
    }


def test_validation_is_the_same_for_every_seed_and_order(small_job: Any, tokenizer: Any) -> None:
    by_seed = [contents(data_of(small_job(f"seed={s}"), tokenizer)) for s in (0, 7)]
    assert by_seed[0] == by_seed[1]
    asked = [Question(query_of(k), "1") for k in range(50)]
    chosen, held_out = hold_out(asked, [], 20)
    assert set(chosen) == set(hold_out(asked[::-1], [], 20)[0])
    assert set(hold_out(asked, [], 10)[0]) <= set(chosen)
    assert held_out.valid == {normalised(q.text) for q in chosen}
    assert [q.text for q in chosen] != [query_of(k) for k in range(20)]  # no prefix of the file
    with pytest.raises(BadInput, match=r"^benchmark.valid_size: larger than .*, got 50; expected < 50\.$"):
        hold_out(asked, [], 50)


def test_training_data_without_originals_is_said(
    small_job: Any, tokenizer: Any, tmp_path: Path, caplog: Any, capsys: Any, monkeypatch: Any
) -> None:
    """A row that repeats a question can be found by its text, whatever the column says; another cannot, and that is
    counted and said: the same from the cache, and once per process.
    """
    asked = data_of(small_job(), tokenizer).valid[0].text
    rows = [{"query": query_of(100 + k), "original_question": query_of(k), "response": "1"} for k in range(100, 111)]
    rows[3] = {"query": f"  {asked.upper()} ", "response": "1"}
    rows[5] |= {"query": asked}  # says that it comes from another question
    rows[7]["original_question"] = " . "
    rows[8]["original_question"] = float("nan")  # how pandas writes a missing text
    job = small_job(f"data.train.path={write_jsonl(tmp_path / 'some.jsonl', rows)}")
    for _ in range(2):
        monkeypatch.setattr("harness.data.training_set._kept", {})
        monkeypatch.setattr("harness.data.load._said", set())
        caplog.clear()
        capsys.readouterr()
        with caplog.at_level(logging.WARNING):
            counts = data_of(job, tokenizer).counts
            assert data_of(job, tokenizer).counts == counts
        assert (counts["train_rows"], counts["removed_for_validation"], counts["train_examples"]) == (11, 2, 9)
        assert (counts["without_original"], counts["removed_identical"]) == (3, 1)
        assert caplog.messages == [
            "data.train: 3 of 11 rows have no original_question, so augmented copies of validation and test questions "
            "cannot be found among them; only identical questions were removed, 1 of them for validation"
        ]
        assert capsys.readouterr().out == (
            "data: 6 validation and 10 test questions; "
            "11 training rows, 2 removed for validation, 0 for test, 0 over-long, 0 unfit, 9 left; "
            "5 validation questions match no row\n"
        )


FOLDED = [
    ("He has $1,000.", "he has 1000"),
    (r"He has \\$1{,}000 now", "He has $1000 now."),
    ("caf\u00e9 \u00bd", "cafe\u0301 1\u20442"),
    ("\uff11\uff12 eggs", "12 eggs"),
    ("zero\u200bwidth \ufeffjoin\u00aders", "zerowidth joiners"),
    ("\u201cAnn\u2019s\u201d pens \u2013 2\u20143", '"Ann\'s" pens - 2-3'),
    ("STRASSE \ufb01ve", "straße five"),
    ("no\u00a0break\u2003space", "no break space"),
]


@pytest.mark.parametrize(("one", "other"), FOLDED)
def test_copies_that_differ_in_form_are_one_question(one: str, other: str) -> None:
    assert normalised(one) == normalised(other) != ""
    assert normalised(normalised(one)) == normalised(one)


def test_different_numbers_stay_different() -> None:
    texts = ["1,000", "1000000", "1.000", "1,00", "10,00", "1,000,00", "12,345", "1, 000", "x²", "x"]
    assert len({normalised(t) for t in texts}) == len(texts) - 1  # x² and x2 would be one, but x² and x are not
    assert normalised("1,234,567") == normalised("1234567")


def test_the_benchmarks_validation_questions_are_those_of_version_2() -> None:
    """Folding more must not choose others: published learning rates were tuned on these."""
    from harness.hashing import sha256
    from harness.tiny import problems

    questions = [Question(r["question"], r["answer"]) for r in problems.question_rows()]
    test = [Question(r["question"], r["answer"]) for r in problems.test_rows()]
    chosen, held_out = hold_out(questions, test, 500)
    assert (
        sha256([[q.text, q.reference] for q in chosen])
        == "c9d12fc5eeb7a456775263034c9f191dd1180a2c30dee73a99f09e25582d86af"
    )
    assert held_out.valid_in_test == 0


def test_test_questions_are_neither_trained_nor_validated_on(
    small_job: Any, tokenizer: Any, data_dir: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    """Six copies in the training file and four among the questions: removed, counted and printed."""
    monkeypatch.setattr("harness.data.load._said", set())
    tested = [json.loads(line) for line in (data_dir / "test.jsonl").read_text().splitlines()]
    asked = [json.loads(line) for line in (data_dir / "questions.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (data_dir / "train.jsonl").read_text().splitlines()]
    copies = [
        {"query": f"Else {n}?", "original_question": q["question"].upper(), "response": "1"}
        for n, q in enumerate(tested[:3])
    ]
    copies += [
        {"query": q["question"].replace(" ", "\u00a0"), "original_question": "Other", "response": "1"}
        for q in tested[3:6]
    ]
    train = write_jsonl(tmp_path / "train.jsonl", rows + copies)
    questions = write_jsonl(
        tmp_path / "questions.jsonl", [q | {"question": f"{q['question']} "} for q in tested[:4]] + asked
    )
    clean = data_of(small_job(), tokenizer)
    capsys.readouterr()
    found = data_of(
        small_job(f"data.train.path={train}", f"data.questions.path={questions}", "eval.limit=2"), tokenizer
    )
    assert list(found.train) == list(clean.train)
    assert found.valid == clean.valid[:2]
    assert (found.counts["removed_for_test"], found.counts["valid_in_test"]) == (6, 4)
    said = capsys.readouterr().out
    assert "(4 test questions among data.questions were left out)" in said
    assert ", 6 for test, " in said
    same = small_job(f"data.questions.path={data_dir / 'test.jsonl'}")
    line = r"^data.questions: 10 of its 10 questions are test questions, .*, got 0; expected > 6\. Give other"
    with pytest.raises(BadInput, match=line):
        data_of(same, tokenizer)


def test_a_wrong_original_column_shows(small_job: Any, tokenizer: Any, caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("harness.data.load._said", set())
    with caplog.at_level(logging.WARNING):
        counts = data_of(small_job("data.train.columns.original_question=type"), tokenizer).counts
    assert (counts["removed_for_validation"], counts["valid_unmatched"]) == (0, counts["valid"])
    assert "data.train.columns.original_question names the wrong column" in caplog.text


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

    monkeypatch.setattr("harness.data.tokenize._encode", merging)
    job = small_job(f"data.train.path={write_jsonl(tmp_path / 'rare.jsonl', rows)}")
    read = data_of(job, tokenizer)
    assert (read.counts["unfit"], read.counts["train_examples"], len(read.train)) == (2, 248, 248)
    for k in (10, 20):
        rows[k]["query"] = "MERGED"
    job = small_job(f"data.train.path={write_jsonl(tmp_path / 'many.jsonl', rows)}")
    with pytest.raises(
        BadInput, match=r"^benchmark.prompt: the prompt does not .*, in 4 of 250 rows \(first .*many.jsonl:11\), "
    ):
        data_of(job, tokenizer)
    assert not list(job.cache_dir.rglob("*.part"))


def test_over_long_examples_are_dropped_whole_and_counted(small_job: Any, tokenizer: Any) -> None:
    everything = data_of(small_job("benchmark.max_length=100000"), tokenizer)
    lengths = sorted(len(e.ids) for e in everything.train)
    limit = lengths[len(lengths) // 2]
    half = data_of(small_job(f"benchmark.max_length={limit}"), tokenizer)
    assert list(half.train) == [e for e in everything.train if len(e.ids) <= limit]
    assert half.counts["over_long"] == len(everything.train) - len(half.train) > 0
    with pytest.raises(BadInput, match=r"^data.train: no example left .*'over_long': 48.*, or raise benchmark"):
        data_of(small_job("benchmark.max_length=8"), tokenizer)


def test_limit_takes_the_first_questions(small_job: Any, tokenizer: Any) -> None:
    """Of both splits, and without changing what is held out of training."""
    all_of_it, some = (data_of(small_job(w), tokenizer) for w in ("eval.limit=null", "eval.limit=3"))
    assert (some.valid, some.test) == (all_of_it.valid[:3], all_of_it.test[:3])
    assert list(some.train) == list(all_of_it.train)
