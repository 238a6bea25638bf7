"""What is asked of a run's answers beyond its accuracy: Platinum, the noise floor; old configs; tracking's refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from harness import again, evaluation, repeat
from harness.evaluation import Prediction
from harness.run import run
from harness.sources import Question


def test_platinum_and_repeat_are_added_in_the_run_or_later(small_job: Any, data_dir: Path, tmp_path: Path) -> None:
    """Both ways give the same record; in fp32 another order changes nothing; the primary accuracy stays."""
    rows = [json.loads(line) for line in (data_dir / "test.jsonl").read_text().splitlines()]
    odd = [rows[3] | {"question": rows[3]["question"].upper()}, rows[1] | {"answer": "#### 999"}]
    file = write_jsonl(tmp_path / "platinum.jsonl", [*odd, {"question": "Not asked?", "answer": "#### 1"}])
    plain = run(small_job())
    job = small_job(f"data.platinum.path={file}", "eval.repeat=2", f"runs_dir={tmp_path / 'both'}")
    both = run(job)
    assert both["run_id"] == plain["run_id"]
    assert both["test"] == plain["test"]
    assert both["memory"].keys() == plain["memory"].keys()
    assert (both["platinum"]["total"], both["platinum"]["not_found"]) == (2, 1)
    assert both["platinum"]["source"].startswith("sha256:")
    (turn,) = both["repeat"]["turns"]
    assert (turn["changed"], turn["texts_differ"], both["repeat"]["largest_difference"]) == (0, 0, 0.0)
    assert again.lacking(job, both) == []
    assert len(again.lacking(job, plain)) == 2

    runs_dir = str(small_job().runs_dir)
    config = Path(runs_dir) / plain["run_id"] / "config.yaml"
    old = config.read_text().replace("  repeat: 1\n", "")  # as it was written before that key existed
    config.write_text(old.replace("train:\n  weight", "train:\n  gone: 1\n  weight"))
    again.score_platinum(plain["run_id"], runs_dir, str(file), write=True)
    again.repeat_test(plain["run_id"], runs_dir, 2, write=True, device="cpu")
    later = json.loads((config.parent / "result.json").read_text())
    assert (later["platinum"], later["repeat"]) == (both["platinum"], both["repeat"])
    assert later["test"] == plain["test"]


def test_a_difference_is_counted() -> None:
    asked = [Question(str(n), "#### 7") for n in range(4)]
    first = [Prediction("test", n, "#### 7", True) for n in range(4)]
    other = [Prediction("test.2", n, t, True) for n, t in enumerate(["#### 7", "#### 8", "so #### 7", "#### 7"])]
    found = repeat.compared(first, [other], asked)
    assert found["largest_difference"] == 0.25
    assert found["turns"] == [{"accuracy": 0.75, "correct": 3, "total": 4, "changed": 1, "texts_differ": 2}]


def test_of_a_chunk_cut_short_nothing_is_kept(model: Any, tokenizer: Any, small_job: Any, tmp_path: Path) -> None:
    """Cut at any byte, the file ends the same, byte for byte."""
    job, file = small_job("eval.batch_size=1", "eval.max_new_tokens=4"), tmp_path / "p.jsonl"
    asked = [Question(f"Wie viel? {n}", str(n)) for n in range(10)]
    predict = lambda: evaluation.predict(model, tokenizer, asked, job, "test", file, lambda text: None)
    whole, texts = predict(), file.read_bytes()
    for size in range(0, len(texts), 97):
        file.write_bytes(texts[:size])
        assert predict() == whole
        assert file.read_bytes() == texts


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["tracking=wandb", "tracking.mode=live"], "tracking.mode: unknown mode, got 'live'; expected offline or onl"),
        (["tracking=wandb", "tracking.mode=online"], "tracking.mode: no login for wandb on this machine"),
        (["tracking.mode=online"], "tracking.mode: nothing is tracked, got 'online'. Add tracking=wandb."),
    ],
)
def test_tracking_refuses_in_one_line(small_job: Any, monkeypatch: Any, words: list[str], line: str) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nowhere")
    with pytest.raises(SystemExit) as refused:
        small_job(*words)
    assert str(refused.value.code).startswith(line)
