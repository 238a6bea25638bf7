"""make bench: ratios by hand, contestants that match, a yardstick that computes the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import adapters as ad
from harness.data.batches import collate
from harness.data.tokenize import prompt_of
from harness.evaluation.predict import predict
from harness.loss import label_loss_sum
from tests.conftest import examples
from tools import bench
from tools.benches import _plain, steps
from tools.benches._common import write_section
from tools.benches._qwen3 import PEFT_KINDS, peft_config, random_qwen3

peft = pytest.importorskip("peft")

# Seconds of three rounds; the machine is twice as slow in the last, and ten times while lora (PEFT) is timed.
AROUND = {"train reference": [2.0, 2.0, 4.0], "decode reference": [1.0, 1.0, 2.0]}
ROWS = {
    "none": AROUND | {"decode": [1.0, 1.0, 2.0]},
    "lora": AROUND | {"train": [2.0, 2.0, 4.0], "decode": [1.02, 1.04, 2.12]},
    "lora (PEFT)": {
        "train": [21.0, 21.0, 42.0],
        "train reference": [20.0, 20.0, 40.0],
        "decode": [10.0, 10.0, 20.0],
        "decode reference": [10.0, 10.0, 20.0],
    },
    "dora": AROUND | {"train": [2.12, 2.08, 4.24], "decode": [1.0, 1.0, 2.0]},
    "antipasto": AROUND | {"train": [2.14, 2.14, 4.28], "decode": [1.1, 1.0, 2.2]},
}
PROVENANCE = {"device": "Some CPU", "threads": 2, "cuda": None, "versions": {"torch": "2", "transformers": "5"}}
STEPS = {"layers": 4, "tokens": 128}
PROFILE = {"variant": "dora", "what": "train", "operators": {"aten::mm": 3.25, "aten::add": 1.0}}


def section(**content: Any) -> dict[str, Any]:
    return {"provenance": PROVENANCE, "peft": "0.21", **content}


def test_ratios_are_of_the_same_round() -> None:
    assert steps.ratio(ROWS, "dora", "lora", "train") == pytest.approx((1.06, 1.04, 1.06))
    assert steps.ratio(ROWS, "lora", "none", "decode") == pytest.approx((1.04, 1.02, 1.06))
    assert steps.ratio(ROWS, "none", "lora", "train") is None
    assert steps.ratio(ROWS, "dora", "dora (PEFT)", "train") is None
    # 1.07 and 1.10 for a rank of 256, whose goals are 1.08 and 1.09
    assert steps.misses(ROWS) == [("dora", "train"), ("antipasto", "decode")]


def test_the_page_says_what_is_over_and_what_is_missing() -> None:
    measured = section(
        dtype="float32", arguments=STEPS, rows=ROWS, profiles=[PROFILE], failed={"hra (PEFT)": "no kernel"}
    )
    rounds = [
        {"train": [120.0, 100.0], "evaluate": [1.0, 2.0], "long": [1.0, 3.2]},
        {"train": [140.0, 100.0], "evaluate": [1.0, 2.2], "long": [1.0, 3.4]},
    ]
    sizes = {"steps": 30, "questions": 250}
    plain = section(arguments=sizes, rounds=rounds, correct=[9, 8], alike=249, tokens=88.2)
    text = bench.page({"steps float32": measured, "end to end": plain})
    assert "| dora | 1.06 [1.04, 1.06] (over) | – | 1.00 [1.00, 1.00] | – |" in text
    lora = "| lora | 1.00 [1.00, 1.00] | 0.95 [0.95, 0.95] | 1.04 [1.02, 1.06] | 1.04 [1.02, 1.06] (slower) |"
    assert lora in text
    assert "Over the goal: dora (training step, goal 1.05), antipasto (decoding, goal 1.09)." in text
    assert "Slower than PEFT: lora (decoding)." in text
    assert "Profile of dora, training step: milliseconds more than lora in one step: `aten::mm` +3.2, `aten::a" in text
    assert "Not timed: hra (PEFT), which raises `no kernel`" in text
    assert "| training | 1.30 [1.20, 1.40] | 1.2 |" in text
    assert "| evaluation | 2.10 [2.00, 2.20] (below) | 2.5 |" in text
    assert "| evaluation, lengths as of GSM8K | 3.30 [3.20, 3.40] | 3.0 |" in text
    assert "9 and 8 answers are correct." in text
    assert "(88 tokens on average): 249 of 250 texts are the same. Some CPU, 2 threads; torch 2, transf" in text
    assert text.count("Not measured yet (`make bench`).") == 3
    peaks = {"lora": ROWS["lora"] | {"peak_bytes": [2e9] * 3}, "none": ROWS["none"]}
    cuda = measured | {"provenance": PROVENANCE | {"cuda": "12.8"}, "rows": peaks}
    assert "1.04 [1.02, 1.06] | – | 2000.0 | – | 1040.0 | – | 2.00 | – |" in steps.page(cuda)


@dataclasses.dataclass
class Arguments:
    out: str
    force: bool = False
    size: int = 1
    device: str = "cpu"
    section: str = "mine"


def test_a_section_is_measured_once(tmp_path: Path, monkeypatch: Any) -> None:
    """Again for other arguments, another source, or when forced; the other sections stay."""
    out, source, calls = tmp_path / "bench.json", tmp_path / "tool.py", []
    out.write_text('{"other": {"kept": true}}')
    monkeypatch.setattr("tools.benches._common.ROOT", tmp_path)  # hashing all sources takes seconds
    loss = tmp_path / "harness" / "loss.py"
    loss.parent.mkdir()
    loss.touch()
    source.write_text("x = 1\n")

    def write(**changes: Any) -> int:
        args = Arguments(**{"out": str(out)} | changes)
        measuring = SimpleNamespace(__file__=str(source), measure=lambda args: {"n": calls.append(1) or len(calls)})
        write_section(args, measuring)
        content = json.loads(out.read_text())
        assert content["other"] == {"kept": True}
        assert content["mine"]["arguments"] == {"size": args.size, "device": "cpu"}
        assert content["mine"]["n"] == len(calls)
        return len(calls)

    assert [write(), write(), write(size=2), write(size=2), write(size=2, force=True)] == [1, 1, 2, 2, 3]
    source.write_text("x = 1  # said\n")
    assert write(size=2) == 3
    source.write_text("x = 2\n")
    assert write(size=2) == 4
    loss.write_text("y = 1\n")
    assert write(size=2) == 5


@pytest.mark.parametrize("name", PEFT_KINDS)
def test_peft_trains_as_many_parameters(name: str, layer: Any) -> None:
    """On one layer of Qwen3-0.6B: same rank, same layers."""
    adapted = peft.get_peft_model(layer, peft_config(name))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    adapted.unload()
    layer.requires_grad_(False)
    assert trained == ad.parameter_count(layer, ad.VARIANTS[name].Config())


@pytest.fixture(scope="module")
def layer() -> Any:
    return random_qwen3(1, "cpu", vocab_size=64)


def test_steps_are_timed_in_turn() -> None:
    """Every round has a time of every contestant and of the reference beside it; the bare model trains nothing."""
    sizes: Any = {"layers": 1, "tokens": 8, "rounds": 2, "vocabulary": 64}
    args = bench.Arguments("steps float32", ["dora"], "cpu", **sizes)
    found = steps.measure(args)
    assert found["failed"] == {}
    decoded = {"decode": 2, "decode reference": 2}
    both = {"train": 2, "train reference": 2} | decoded
    assert {k: {w: len(t) for w, t in row.items()} for k, row in found["rows"].items()} == {
        "lora": both, "lora (PEFT)": both, "none": decoded, "dora": both, "dora (PEFT)": both
    }  # fmt: skip
    missed = steps.misses(found["rows"])
    assert [(p["variant"], p["what"]) for p in found["profiles"]] == missed
    assert all(len(p["operators"]) == 5 for p in found["profiles"])


def test_the_plain_loop_computes_the_same_loss(model: Any, tokenizer: Any) -> None:
    """Of one batch, in which rows differ in length."""
    batch = examples(6)
    ids, labels = collate(batch, 1, "cpu")
    ours = label_loss_sum(model, ids, labels) / len(labels)
    assert torch.allclose(model(**_plain.collate(batch, 1)).loss, ours, rtol=1e-5)
    params = [p.detach().clone() for p in model.parameters()]
    losses, tokens = _plain.train(model, batch, 1, steps=1, batch_size=6, lr=1e-3)
    assert losses == pytest.approx([float(ours.detach())], rel=1e-5)
    assert tokens == sum(len(e.ids) for e in batch)
    assert any(not torch.equal(p, old) for p, old in zip(model.parameters(), params, strict=True))


def test_the_plain_loop_gives_the_same_answers(model: Any, tokenizer: Any, small_job: Any, tmp_path: Path) -> None:
    """PEFT with an exported adapter, by `generate`, against this project's evaluation: word for word."""
    from harness.inputs.rows import Question

    job = small_job("eval.max_new_tokens=10")
    questions = [Question(f"What is {n}?" + "?" * n, str(n)) for n in range(7)]
    with ad.attach(model, job.adapter, seed=0) as handle:
        for p in handle.trainable().values():
            torch.nn.init.normal_(p, std=0.3)
        answers = predict(model, tokenizer, questions, job, "test", tmp_path / "p.jsonl", lambda text: None)
        ad.export_peft(model, tmp_path / "peft")
    adapted = peft.PeftModel.from_pretrained(model, tmp_path / "peft")
    prompts = [prompt_of(job.prompt, q.text) for q in questions]
    texts = _plain.answer(adapted, tokenizer, prompts, max_new_tokens=10, batch_size=3)
    assert texts == [a.text for a in answers]
    assert len(set(texts)) > 1
