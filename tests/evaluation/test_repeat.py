"""What is asked of a run's answers beyond its accuracy: Platinum and the noise floor, in the run or later."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import eval_gsm8k
from harness import reevaluate
from harness.evaluation.generate import generate
from harness.evaluation.predict import CHUNK
from harness.evaluation.predictions import Prediction
from harness.evaluation.repeat import compared
from harness.inputs.rows import Question
from harness.records.plan import lacking, plan
from harness.report.markdown import markdown_table
from harness.report.summary import warnings
from harness.report.table import rows
from harness.run import run
from tests import factory
from tests.conftest import write_jsonl


def test_platinum_and_repeat_are_added_in_the_run_or_later(small_job: Any, data_dir: Path, tmp_path: Path) -> None:
    """Both ways give the same record; in fp32 another order changes nothing; the primary accuracy stays."""
    lines = [json.loads(line) for line in (data_dir / "test.jsonl").read_text().splitlines()]
    odd = [lines[3] | {"question": lines[3]["question"].upper()}, lines[1] | {"answer": "#### 999"}]
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
    planned = plan(job)
    assert lacking(planned) == []
    assert len(lacking(dataclasses.replace(planned, record=plain))) == 2

    runs_dir = str(small_job().runs_dir)
    config = Path(runs_dir) / plain["run_id"] / "config.yaml"
    old = config.read_text().replace("  repeat: 1\n", "")  # as it was written before that key existed
    config.write_text(old.replace("train:\n  weight", "train:\n  gone: 1\n  weight"))
    reevaluate.platinum(plain["run_id"], runs_dir, str(file), write=True)
    reevaluate.repeat(plain["run_id"], runs_dir, 2, write=True, device="cpu")
    later = json.loads((config.parent / "result.json").read_text())
    assert (later["platinum"], later["repeat"]) == (both["platinum"], both["repeat"])
    assert later["test"] == plain["test"]


def test_a_difference_is_counted() -> None:
    asked = [Question(str(n), "#### 7") for n in range(4)]
    first = [Prediction("test", n, "#### 7", True) for n in range(4)]
    other = [Prediction("test.2", n, t, True) for n, t in enumerate(["#### 7", "#### 8", "so #### 7", "#### 7"])]
    found = compared(first, [other], asked)
    assert found["largest_difference"] == 0.25
    assert found["turns"] == [{"accuracy": 0.75, "correct": 3, "total": 4, "changed": 1, "texts_differ": 2}]


def test_a_repetition_asked_for_later_goes_on_where_it_was_stopped(small_job: Any, monkeypatch: Any) -> None:
    """With write=true its chunks are kept; the record is written at the end only."""
    record = run(small_job("eval.batch_size=1"))
    folder, place = small_job().runs_dir, {"runs_dir": str(small_job().runs_dir)}
    file = folder / record["run_id"] / "predictions.jsonl"

    def stop(text: str) -> None:
        if text:
            raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr("harness.reevaluate._progress", stop)
        with pytest.raises(KeyboardInterrupt):
            eval_gsm8k.main([f"run={record['run_id']}", "repeat=2", "write=true", f"runs_dir={place['runs_dir']}"])
    assert "repeat" not in json.loads(file.with_name("result.json").read_text())
    begun = [json.loads(line) for line in file.read_text().splitlines()]
    assert sum(p["split"] == "test.2" for p in begun) == CHUNK
    generated: list[int] = []
    counting = lambda m, p, **kw: (generated.append(len(p)), generate(m, p, **kw))[1]
    monkeypatch.setattr("harness.evaluation.predict.generate", counting)
    eval_gsm8k.main([f"run={record['run_id']}", "repeat=2", "write=true", f"runs_dir={place['runs_dir']}"])
    assert sum(generated) == record["test"]["total"] - CHUNK
    assert len(json.loads(file.with_name("result.json").read_text())["repeat"]["turns"]) == 1
    assert not (folder / ".locks").exists()


def test_answers_cut_off_are_warned_of_above_two_percent(small_job: Any, capsys: Any) -> None:
    """On the terminal, in run.log, with the remedy; 2 % exactly is no reason."""
    record = run(small_job())
    line = "100.0 % of test answers hit the token limit and count as wrong; raise it: eval.max_new_tokens=24"
    assert f"  WARNING     {line}" in capsys.readouterr().out
    assert f"WARNING {line}" in (small_job().runs_dir / record["run_id"] / "run.log").read_text()
    shares = {}
    for cut in (0, 2, 3):
        test = record["test"] | {"truncated": cut, "total": 100}
        shares[cut] = warnings(record | {"test": test, "valid": test})
    assert [len(w) for w in shares.values()] == [0, 0, 2]
    assert shares[3][0].startswith("3.0 % of test answers hit the token limit")


def test_what_a_finished_run_lacks_is_said_with_the_command_that_adds_it(
    small_job: Any, data_dir: Path, tmp_path: Path, capsys: Any
) -> None:
    """And that command does add it, also where the file calls its columns otherwise."""
    record = run(small_job())
    capsys.readouterr()
    lines = [json.loads(line) for line in (data_dir / "test.jsonl").read_text().splitlines()]
    other = write_jsonl(tmp_path / "other.jsonl", [{"asked": r["question"], "answer": r["answer"]} for r in lines])
    more = [f"data.platinum.path={other}", "data.platinum.columns.question=asked", "eval.repeat=2"]
    assert run(small_job(*more)) == record
    lines = [line for line in capsys.readouterr().out.splitlines() if "not in the record" in line]
    assert [line.split()[0] for line in lines] == ["platinum", "repeat"]
    for line in lines:
        command = line.split("add it: python ")[1].split()
        assert command[0] == "eval_gsm8k.py"
        eval_gsm8k.main(command[1:])
    capsys.readouterr()
    again_ = run(small_job(*more))
    assert "not in the record" not in capsys.readouterr().out
    assert again_["platinum"]["total"] == record["test"]["total"]


def test_platinum_and_the_noise_floor_are_in_the_report() -> None:
    """A column of its own beside the accuracy, and the largest difference below the table."""
    plain = [factory.record("lora", s) for s in (0, 1)]
    assert "Platinum" not in markdown_table("t", rows(plain), {})
    found = [
        {**r["test"], "accuracy": a, "total": 250, "not_found": 50} for r, a in zip(plain, (0.5, 0.6), strict=True)
    ]
    turn = {"accuracy": 0.5, "correct": 1, "total": 300, "changed": 4, "texts_differ": 9}
    scored = [
        r | {"platinum": p, "repeat": {"turns": [turn], "largest_difference": 0.013}}
        for r, p in zip(plain, found, strict=True)
    ]
    text = markdown_table("t", rows([*scored, factory.record("hra", 0)]), {})
    head, _, *body = [line for line in text.splitlines() if line.startswith("|")]
    at = [cell.strip() for cell in head.split("|")].index("Platinum, %")
    shown = {row.split("|")[1].strip().split("]")[0].lstrip("["): row.split("|")[at].strip() for row in body}
    assert shown == {"lora": "55.0", "hra": "–"}
    assert "Platinum: the same answers to 250 questions" in text
    assert "Another batch order changed the accuracy of 1 row(s) by at most 1.3 points." in text
