"""What happens to a run that is there already, and what becomes of one that fails."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from harness.config.job import Job
from harness.errors import BadInput
from harness.loss import label_loss_sum
from harness.records.lock import lock
from harness.records.plan import begin, plan
from harness.records.store import write_record
from harness.run import run
from tests.conftest import run_id_of


# -- what is there already --------------------------------------------------------------------------------------------
def record_of(job: Job) -> tuple[Path, dict[str, Any]]:
    folder = job.runs_dir / run_id_of(job)
    return folder, json.loads((folder / "result.json").read_text())


def test_finished_runs_are_skipped_refused_or_replaced(small_job: Any, capsys: Any) -> None:
    job = small_job()
    done = run(job)
    folder, record = record_of(job)
    assert record == json.loads(json.dumps(done))
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    capsys.readouterr()
    assert run(job) == record
    assert "finished already, skipped" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    assert not (folder / "checkpoint").exists()

    for changed, named in (
        ({"code_hash": "x"}, "code of lora"),
        ({"science_hash": "x", "science": record["science"] | {"clip": 7.0, "gone": 1}}, "clip, gone"),
    ):
        write_record(folder, record | changed)
        what = f"{folder.name}: finished already, but not with the same {named}."
        with pytest.raises(BadInput) as refused:
            run(job)
        assert refused.value.code == f"{what} force=true replaces it and keeps the old record."
        assert record_of(job)[1] == record | changed

    again = run(small_job("force=true"))
    assert again["test"] == record["test"]
    assert again["train"]["loss_last"] == record["train"]["loss_last"]
    (kept,) = (job.runs_dir / ".replaced").iterdir()
    assert kept.name.startswith(folder.name)
    assert json.loads((kept / "result.json").read_text()) == record | changed
    assert (kept / "adapter.safetensors").exists()
    assert plan(job).action == "skip"


DAMAGED = [b"", b"{", b"\xff\xfe", b"[1]", b'"text"', b"{}"]
FOREIGN = [b'{"status": "done"}', b'{"status": "running"}', b'{"status": []}']


@pytest.mark.parametrize("content", DAMAGED + FOREIGN)
def test_damaged_and_foreign_records_do_not_count(small_job: Any, content: bytes) -> None:
    """Nothing is skipped for them, and none is overwritten: the new run puts them aside."""
    job = small_job()
    record = plan(job).folder / "result.json"
    record.parent.mkdir(parents=True)
    record.write_bytes(content)
    planned = plan(job)
    assert planned.action == "run"
    assert record.read_bytes() == content
    begin(planned)
    assert not record.exists()
    (kept,) = (job.runs_dir / ".replaced").glob("*/result.json")
    assert kept.read_bytes() == content


def test_published_records_never_count_as_finished(small_job: Any) -> None:
    job = small_job()
    run(job)
    folder, _ = record_of(job)
    (job.runs_dir / "published").mkdir()
    folder.rename(job.runs_dir / "published" / folder.name)
    assert plan(job).action == "run"


def test_a_duplicate_waits_and_skips(small_job: Any, tmp_path: Path, capsys: Any) -> None:
    """The second of two processes finds the first one's record when it gets the lock."""
    job = small_job()
    run(job)
    folder, record = record_of(job)
    folder.rename(tmp_path / "finished elsewhere")
    found: list[Any] = []
    with lock(job.runs_dir, folder.name):
        second = threading.Thread(target=lambda: found.append(run(job)))
        second.start()
        time.sleep(1)
        assert second.is_alive()
        assert not folder.exists()
        (tmp_path / "finished elsewhere").rename(folder)
    second.join(60)
    assert found == [record]
    assert not (job.runs_dir / ".replaced").exists()


# -- outcomes ---------------------------------------------------------------------------------------------------------
def test_failed_runs_are_recorded_and_run_again(small_job: Any, monkeypatch: Any) -> None:
    job = small_job("train.checkpoint_every=2")
    whole = run(small_job(f"runs_dir={job.runs_dir}-other"))
    with monkeypatch.context() as m:
        calls = []

        def fails(*args: Any) -> Any:
            calls.append(1)
            if len(calls) > 4:
                raise RuntimeError("out of luck")
            return label_loss_sum(*args)

        m.setattr("harness.training.loop.label_loss_sum", fails)
        with pytest.raises(RuntimeError, match="out of luck"):
            run(job)
    _, record = record_of(job)
    assert record["status"] == "failed"
    assert record["error"]["class"] == "RuntimeError"
    assert "in fails" in record["error"]["traceback"]
    assert plan(job).action == "resume"  # from step 4
    again = run(job)
    assert (again["status"], again["test"]) == ("done", whole["test"])
    assert again["train"]["loss_last"] == whole["train"]["loss_last"]
    assert "error" not in again


def test_diverged_is_an_outcome(small_job: Any, monkeypatch: Any, capsys: Any) -> None:
    """Kept and not run again; the model that the next run of the process gets is sound."""
    job = small_job()
    with monkeypatch.context() as m:
        m.setattr("harness.training.loop.label_loss_sum", lambda *args: label_loss_sum(*args) * float("nan"))
        record = run(job)
    assert record["status"] == "diverged"
    assert record["error"]["class"] == "DivergedError"
    assert record["error"]["message"] == "loss nan, gradient norm nan at step 1"
    assert "in flush" in record["error"]["traceback"]
    assert "diverged: loss nan" in capsys.readouterr().out
    assert plan(job).action == "skip"
    assert run(job) == record_of(job)[1]
    assert run(small_job("seed=1"))["status"] == "done"


def test_unfinished_runs_resume_only_if_they_are_the_same(small_job: Any) -> None:
    job = small_job()
    planned = plan(job)
    begin(planned)
    assert plan(job).action == "resume"
    started = planned.folder / "checkpoint" / "started.json"
    for name, what in (("science_hash", "settings"), ("code_hash", "code of lora"), ("engine_hash", "training code")):
        started.write_text(json.dumps(planned.stamps | {name: "x"}))
        assert (plan(job).action, plan(job).reason) == ("run", f"{what} changed since it began")
    started.write_bytes(b"\xff")
    assert plan(job).action == "run"
    config = (planned.folder / "config.yaml").read_text()
    begin(plan(job))
    assert (planned.folder / "config.yaml").read_text() == config
    assert len(list((job.runs_dir / ".replaced").iterdir())) == 1


def test_a_run_killed_while_it_began_leaves_nothing_to_keep(small_job: Any) -> None:
    """Another leftover, however small, is kept."""
    first = plan(small_job())
    begin(first)
    (first.folder / "checkpoint" / "started.json").unlink()  # what is written last
    begin(plan(small_job()))
    assert not (first.folder.parent / ".replaced").exists()
    (first.folder / "checkpoint" / "started.json").unlink()
    (first.folder / "notes.txt").write_text("mine")
    begin(plan(small_job()))
    (kept,) = (first.folder.parent / ".replaced").glob("*/notes.txt")
    assert kept.read_text() == "mine"
