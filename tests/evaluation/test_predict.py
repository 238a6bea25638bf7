"""Answers to questions: the same whatever the batch size, and after a kill at any moment."""

from __future__ import annotations

import dataclasses
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.evaluation.generate import generate
from harness.evaluation.predict import CHUNK, eos_ids, predict
from harness.evaluation.predictions import Prediction, read_predictions
from harness.inputs.rows import Question
from harness.paths import ROOT
from harness.run import run
from tests.programs import with_words


class StopError(Exception):
    """Stands for a kill."""


def questions(count: int = 30) -> list[Question]:
    rng = random.Random(2)
    return [Question("How many? " * rng.randrange(1, 5) + str(n), str(n)) for n in range(count)]


def run_predict(model: Any, tokenizer: Any, job: Any, file: Path, *, stop_after: int | None = None) -> list[Prediction]:
    chunks = 0

    def tick(text: str) -> None:
        nonlocal chunks
        chunks += bool(text)
        if stop_after is not None and chunks >= stop_after:
            raise StopError

    return predict(model, tokenizer, questions(), job, "test", file, tick)


def test_a_killed_evaluation_goes_on_to_the_same_predictions(
    model: Any, tokenizer: Any, small_job: Any, tmp_path: Path
) -> None:
    job = small_job("eval.batch_size=2", "eval.max_new_tokens=12")
    whole = run_predict(model, tokenizer, job, tmp_path / "whole.jsonl")
    assert [p.index for p in whole] == list(range(30))

    file = tmp_path / "killed.jsonl"
    with pytest.raises(StopError):
        run_predict(model, tokenizer, job, file, stop_after=2)
    kept = read_predictions(file)
    assert len(kept) == 2 * CHUNK * 2
    with open(file, "a") as out:  # a kill in the middle of a line, and another split's row
        out.write(json.dumps({"split": "valid", "index": 29, "text": "x", "finished": True}) + "\n")
        out.write('{"split": "test", "index": 5, "te')
    assert run_predict(model, tokenizer, job, file) == whole
    rows = [r for r in read_predictions(file) if r.split == "test"]
    assert sorted(rows, key=lambda r: r.index) == whole  # each question once: rescoring needs them all
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_texts_do_not_depend_on_the_batch_size(model: Any, tokenizer: Any, small_job: Any, tmp_path: Path) -> None:
    """Also with several EOS ids, of which generation_config holds some, and for the fixed batches of 8-bit models."""
    model.generation_config.eos_token_id = [0, *tokenizer("e")["input_ids"]]
    assert eos_ids(model, tokenizer) == {0, *tokenizer("e")["input_ids"]}
    job = small_job("eval.max_new_tokens=16")
    by_size = [
        run_predict(model, tokenizer, dataclasses.replace(job, **changes), tmp_path / f"{n}.jsonl")
        for n, changes in enumerate(({"eval_batch_size": 1}, {"eval_batch_size": 7}, {"quantization": "8bit"}))
    ]
    assert by_size[0] == by_size[1] == by_size[2]


def test_within_a_chunk_short_prompts_are_answered_first(
    model: Any, tokenizer: Any, small_job: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """The longest chunk still comes first, where memory would run out; 8-bit batches keep the longest first."""
    turns: list[list[int]] = []

    def noted(model: Any, prompts: list[list[int]], **kw: Any) -> Any:
        turns.append([len(p) for p in prompts])
        return generate(model, prompts, **kw)

    monkeypatch.setattr("harness.evaluation.predict.generate", noted)
    for quantization, descending in (("none", False), ("8bit", True)):
        job = dataclasses.replace(small_job("eval.batch_size=2", "eval.max_new_tokens=2"), quantization=quantization)
        run_predict(model, tokenizer, job, tmp_path / f"{quantization}.jsonl")
        assert [max(t) for t in turns] == sorted((max(t) for t in turns), reverse=True)
        assert all(t == sorted(t, reverse=descending) for t in turns)
        assert any(t[0] != t[-1] for t in turns)
        turns.clear()


def test_of_a_chunk_cut_short_nothing_is_kept(model: Any, tokenizer: Any, small_job: Any, tmp_path: Path) -> None:
    """Cut at any byte, the file ends the same, byte for byte."""
    job, file = small_job("eval.batch_size=1", "eval.max_new_tokens=4"), tmp_path / "p.jsonl"
    asked = [Question(f"Wie viel? {n}", str(n)) for n in range(10)]
    answers = lambda: predict(model, tokenizer, asked, job, "test", file, lambda text: None)
    whole, texts = answers(), file.read_bytes()
    for size in range(0, len(texts), 97):
        file.write_bytes(texts[:size])
        assert answers() == whole
        assert file.read_bytes() == texts


@pytest.mark.slow
def test_an_evaluation_killed_in_each_of_its_phases_ends_the_same(
    overrides: list[str], small_job: Any, tmp_path: Path
) -> None:
    """kill -9 among the validation, test and repeated answers: the same command ends with the same file and record."""
    more = ["steps=2", "eval.batch_size=1", "eval.max_new_tokens=40", "eval.repeat=2"]
    whole = run(small_job(*more, f"runs_dir={tmp_path / 'whole'}"))
    words = with_words(overrides, *more)
    file = tmp_path / "runs" / whole["run_id"] / "predictions.jsonl"
    answered = lambda: file.read_bytes().count(b"\n") if file.exists() else 0
    killed = []
    for at in (4, 11, 19):  # of 6 + 10 + 10 answers
        process = subprocess.Popen([sys.executable, "train.py", *words], cwd=ROOT, stderr=subprocess.DEVNULL)
        while process.poll() is None and answered() < at:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        killed.append((process.wait(), answered()))
    assert [code for code, _ in killed] == [-signal.SIGKILL] * 3
    assert all(at <= count < 26 for at, (_, count) in zip((4, 11, 19), killed, strict=True)), killed
    done = subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert file.read_bytes() == (tmp_path / "whole" / whole["run_id"] / "predictions.jsonl").read_bytes()
    record = json.loads(file.with_name("result.json").read_text())
    for key in ("valid", "test", "repeat", "forgetting"):
        assert record[key] == whole[key]
