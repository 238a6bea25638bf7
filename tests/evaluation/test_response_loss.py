"""Loss of the reference responses: the model's own, question by question, whatever the batches."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.evaluation.metrics import LARGEST_NATS, from_nats
from harness.evaluation.response_loss import reference_texts, response_loss
from harness.inputs.rows import Question
from harness.reevaluate import evaluate
from harness.run import run
from tests.conftest import EOS, attached, data_of, make_model, write_jsonl
from tests.evaluation.test_predict import StopError
from tools.probe_quantized import QUANTIZATIONS, quantized_model

ASKED = [
    Question("Why? " * (n % 4 + 1), f" {'so ' * (n * 5 % 13)}\n#### {n}{EOS if n == 2 else ''}") for n in range(12)
]


def silent(text: str) -> None:
    assert text == ""


def one_by_one(model: Any, tokenizer: Any, template: str) -> list[tuple[float, int]]:
    """Nats and label tokens of each reference by transformers' own loss, on texts put together here."""
    out = []
    for question in ASKED:
        prompt = template.replace("{query}", question.text)
        start = len(tokenizer(prompt)["input_ids"])
        ids = torch.tensor([tokenizer(f"{prompt} {question.reference.strip().removesuffix(EOS)}{EOS}")["input_ids"]])
        labels = ids.clone()
        labels[:, :start] = -100
        with torch.no_grad():
            out.append((float(model(input_ids=ids, labels=labels).loss) * (ids.shape[1] - start), ids.shape[1] - start))
    return out


@pytest.mark.parametrize("tokens", [1, 200, 2**14])
def test_it_is_the_models_own_loss_question_by_question(
    model: Any, tokenizer: Any, small_job: Any, monkeypatch: Any, tokens: int
) -> None:
    """One by one, in batches of a few, and all at once: padding changes rounding only. Also of a changed adapter."""
    monkeypatch.setattr("harness.evaluation.response_loss.TOKENS", tokens)
    monkeypatch.setattr("harness.loss.LOGITS", 7 * len(tokenizer))  # several chunks within a question
    job = small_job()
    kept: list[list[float]] = []
    monkeypatch.setattr("harness.evaluation.response_loss.to_nats", lambda nats: kept.append(nats) or "")
    with attached(model) as handle:
        for change in (0.0, 0.3):
            with torch.no_grad():
                for p in handle.trainable().values():
                    p.add_(change)
            found = response_loss(model, tokenizer, ASKED, job, silent)
            expected = one_by_one(model, tokenizer, job.prompt)
            assert kept[-1] == pytest.approx([nats for nats, _ in expected], rel=1e-5)
            assert found["response_tokens"] == sum(count for _, count in expected)
            assert found["response_loss"] == pytest.approx(sum(kept[-1]) / found["response_tokens"])
    assert max(abs(a - b) for a, b in zip(*kept, strict=True)) > 0.1  # the adapter was on


def test_the_text_is_that_of_training(tokenizer: Any, small_job: Any) -> None:
    """Questions whose references are trained on give the ids and labels of the training set."""
    rows = ["data.train.columns.query=question", "data.train.columns.response=answer"]
    job = small_job(*rows, "benchmark.valid_size=1")
    path = job.question_source.path
    data = data_of(dataclasses.replace(job, train_source=dataclasses.replace(job.train_source, path=path)), tokenizer)
    asked = [json.loads(line) for line in Path(path).read_text().splitlines()]
    texts = reference_texts([Question(q["question"], q["answer"]) for q in asked], job.prompt, tokenizer)
    assert len(data.train) == len(texts) - 1
    assert {(tuple(e.ids), e.prompt) for e in data.train} < {(t.ids, t.prompt) for t in texts if t}


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_quantized_bases_give_it_again(quantization: str, tokenizer: Any, small_job: Any, monkeypatch: Any) -> None:
    """To the last bit, in several batches: they depend on the texts alone."""
    monkeypatch.setattr("harness.evaluation.response_loss.TOKENS", 400)
    model = quantized_model(quantization, dtype=torch.bfloat16, vocab_size=len(tokenizer))
    with attached(model):
        first = response_loss(model, tokenizer, ASKED, small_job(), silent)
        assert response_loss(model, tokenizer, ASKED, small_job(), silent) == first
    assert 1 < first["response_loss"] < 20


def test_what_does_not_fit_is_left_out_and_what_is_no_number_is_the_largest(tokenizer: Any, small_job: Any) -> None:
    """A reference that is longer than the model's positions; then a model whose every logit is NaN."""
    job, place = small_job(), 3
    short = make_model(len(tokenizer), max_position_embeddings=256)
    asked = [dataclasses.replace(q, reference="so " * 90) if n == place else q for n, q in enumerate(ASKED)]
    found, without = (response_loss(short, tokenizer, qs, job, silent) for qs in (asked, asked[:3] + asked[4:]))
    nats = from_nats(found["response_nats"])
    assert [n for n, value in enumerate(nats) if math.isnan(value)] == [place]
    assert nats[:3] + nats[4:] == from_nats(without["response_nats"])
    assert (found["response_loss"], found["response_tokens"]) == (
        without["response_loss"],
        without["response_tokens"],
    )
    none = response_loss(short, tokenizer, asked[place : place + 1], job, silent)
    assert (none["response_loss"], none["response_tokens"]) == (0.0, 0)
    with torch.no_grad():
        short.model.norm.weight.fill_(math.nan)
    assert set(from_nats(response_loss(short, tokenizer, ASKED, job, silent)["response_nats"])) == {LARGEST_NATS}


def test_a_run_keeps_it_with_its_strata(small_job: Any, data_dir: Path, tmp_path: Path, capsys: Any) -> None:
    """In the record, in the last lines, and again from the saved adapter; a stop between batches stops it."""
    folder = shutil.copytree(data_dir, tmp_path / "data")
    asked = [json.loads(line) | {"level": n % 2} for n, line in enumerate((folder / "test.jsonl").open())]
    write_jsonl(folder / "test.jsonl", asked)
    job = small_job(f"data.test.path={folder / 'test.jsonl'}", "data.test.columns.stratum=level", "steps=25")
    record = run(job)
    test, valid = record["test"], record["valid"]
    assert {name: s["total"] for name, s in test["strata"].items()} == {"0": 5, "1": 5}
    assert "strata" not in valid
    assert (len(from_nats(test["response_nats"])), len(from_nats(valid["response_nats"]))) == (10, 6)
    printed = capsys.readouterr().out
    assert f"responses   {test['response_loss']:.4f} nats per token" in printed
    assert "strata      0 " in printed
    assert evaluate(record["run_id"], str(job.runs_dir), "test", limit=None, device="cpu") == test
    untrained = run(small_job("variant=none"))["test"]
    assert untrained["response_tokens"] == test["response_tokens"]
    assert untrained["response_loss"] > test["response_loss"] + 0.1


def test_a_stop_between_batches_stops_it(model: Any, tokenizer: Any, small_job: Any) -> None:
    def tick(text: str) -> None:
        raise StopError

    with pytest.raises(StopError):
        response_loss(model, tokenizer, ASKED, small_job(), tick)
