"""Sweeps: what is listed, skipped and resumed, and what becomes of jobs that fail, wait or are killed."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cli.preflight import preflight
from harness.cli.sweep import Sweep
from harness.inputs.base_model import _loaded, load_model
from harness.inputs.fingerprints import Fingerprinter
from harness.paths import ROOT
from harness.records.plan import begin, plan
from harness.records.store import read_record, read_records, write_record
from harness.run import run
from tests.conftest import run_id_of
from tests.programs import BROKEN, records, results, train, with_words


# -- dry run ----------------------------------------------------------------------------------------------------------
def test_a_dry_run_lists_actions_and_times(overrides: list[str], small_job: Any, tmp_path: Path, capsys: Any) -> None:
    """Run, resume, skip and refuse, each under its id, with the time that finished runs suggest; nothing is written."""
    done, stale, begun = (small_job(f"seed={n}") for n in range(3))
    for job in (done, stale):
        run(job)
    folder = stale.runs_dir / run_id_of(stale)
    write_record(folder, (read_record(folder) or {}) | {"code_hash": "x"})
    begin(plan(begun))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    capsys.readouterr()
    words = with_words(overrides, "variant=lora,ia3", "rank=8,9", "seed=0,1,2", "dry_run=true")
    with pytest.raises(SystemExit) as stopped:
        preflight(["-m", *words])
    assert stopped.value.code == 1  # a job would be refused
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    listed = {line.split()[1]: line for line in reversed(lines)}
    expected = {run_id_of(done): "skip", run_id_of(stale): "refuse", run_id_of(begun): "resume"}
    assert {name: listed[name].split()[0] for name in expected} == expected
    assert "not with the same code of lora" in listed[run_id_of(stale)]
    assert sum("the same run as above" in line for line in lines) == 3  # ia3 has no rank
    assert re.fullmatch(
        r"12 jobs: 6 to run, 1 to resume, 4 to skip, 1 to refuse; about \d+ min one after another", last
    )


def test_a_dry_run_refuses_each_job_that_has_no_rate_to_choose_from(overrides: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit):
        preflight(["-m", *with_words(overrides, "rank=8,9", "lr=tuned", "dry_run=true")])
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["refuse", "refuse"]
    assert last.startswith("2 jobs: 2 to refuse")


def test_a_dry_run_says_when_no_time_is_known(
    overrides: list[str], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr("harness.cli.sweep.PUBLISHED", tmp_path)
    words = with_words(overrides, "quantization=4bit", "dry_run=true")
    with pytest.raises(SystemExit):
        preflight(words)
    listed, last = capsys.readouterr().out.splitlines()
    assert listed.endswith("(time unknown)")
    assert last == "1 job: 1 to run, and 1 of unknown length: no similar run has finished"


# -- failures ---------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_failing_job_is_recorded_and_the_others_finish(overrides: list[str], tmp_path: Path) -> None:
    """Named with class and place at the end, exit code 1; a report counts it; the same command does what is missing."""
    broken = tmp_path / "broken.jsonl"
    broken.write_text(BROKEN)
    good = next(w for w in overrides if w.startswith("data.test.path=")).split("=", 1)[1]
    words = with_words(overrides, f"data.test.path={broken},{good}", "seed=0,1", "eval.limit=2")
    first = train("-m", *words)
    assert first.returncode == 1, first.stderr
    assert "Traceback" not in first.stderr
    assert "sweep: 2 of 4 runs are finished" in first.stderr
    found = records(tmp_path / "runs")
    failed = {name: r for name, r in found.items() if r["status"] == "failed"}
    assert sorted(r["status"] for r in found.values()) == ["done", "done", "failed", "failed"]
    for name, record in failed.items():
        assert record["error"]["class"] == "BadInput"
        assert f"{broken}:2: not JSON" in record["error"]["message"]
        assert "rows.py" in record["error"]["traceback"]
        assert f"{name}: failed, BadInput: {broken}:2: not JSON" in first.stderr
    assert not read_records([tmp_path / "runs"]).skipped

    broken.write_text(BROKEN.splitlines()[0])  # mended: other contents, other ids
    second = train("-m", *words)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("finished already, skipped") == 2
    assert "sweep: 4 of 4 runs are finished" in second.stdout


def test_a_job_without_memory_leaves_a_sound_base_to_the_next(small_job: Any, monkeypatch: Any) -> None:
    """OutOfMemoryError in mid-training: recorded by its class; the next job's result is that of a fresh process."""
    with monkeypatch.context() as m:

        def full(*_: Any) -> Any:
            raise torch.OutOfMemoryError("no memory for this")

        m.setattr("harness.run.train", full)
        with pytest.raises(torch.OutOfMemoryError):
            run(small_job(), in_sweep=True)
    (record,) = records(small_job().runs_dir).values()
    assert (record["status"], record["error"]["class"]) == ("failed", "OutOfMemoryError")
    after = run(small_job("seed=1"), in_sweep=True)
    _loaded.clear()
    fresh = run(small_job("seed=1", "force=true"), in_sweep=True)
    assert after["test"] == fresh["test"]
    assert after["train"]["loss_last"] == fresh["train"]["loss_last"]


def test_a_sweeps_end_names_every_job_that_is_left(small_job: Any, monkeypatch: Any, capsys: Any) -> None:
    """Also one whose error has no text, and each of those that have no rate to choose from."""

    def full(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("harness.run.train", full)
    failed, *tuned = small_job(), small_job("rank=9", "lr=tuned"), small_job("rank=10", "lr=tuned")
    sweep = Sweep([failed, *tuned], Fingerprinter()).__enter__()
    with pytest.raises(MemoryError):
        run(failed, in_sweep=True)
    with pytest.raises(SystemExit) as stopped:
        sweep.__exit__(None, None, None)
    assert stopped.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    start = lines.index("sweep: 0 of 3 runs are finished") + 1
    assert lines[start].startswith(f"  {run_id_of(failed)}: failed, MemoryError (")
    named = [line.split(":")[0] for line in lines[start + 1 : start + 3]]
    assert named == ["  lora seed 0 (job 2)", "  lora seed 0 (job 3)"]


def test_a_finished_run_of_other_code_is_named_and_kept(overrides: list[str], small_job: Any) -> None:
    """Refused in a sweep as in a single run: the old record stays, the exit code says so."""
    job = small_job()
    run(job)
    folder = job.runs_dir / run_id_of(job)
    old = (read_record(folder) or {}) | {"code_hash": "x"}
    write_record(folder, old)
    done = train("-m", *with_words(overrides, "seed=0,1"))
    assert done.returncode == 1
    assert f"{folder.name}: finished already, but not with the same code of lora; force=true replaces it" in done.stderr
    assert read_record(folder) == old
    assert len(records(job.runs_dir)) == 2


# -- one model per process --------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_jobs_of_a_process_share_the_base_and_give_what_fresh_processes_give(
    overrides: list[str], small_job: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    loads: list[str] = []
    load = load_model
    monkeypatch.setattr("harness.inputs.base_model._loaded", {})
    monkeypatch.setattr("harness.inputs.base_model.load_model", lambda job: (loads.append(job.variant), load(job))[1])
    variants = ["antipasto_dplr", "full", "lora"]
    together = {v: run(small_job(f"variant={v}", "rank=8", "steps=4"), in_sweep=True) for v in variants}
    assert len(loads) == 1
    for variant in variants:
        words = with_words(overrides, f"variant={variant}", "rank=8", "steps=4", f"runs_dir={tmp_path / 'fresh'}")
        assert train(*words).returncode == 0
    for variant, record in together.items():
        fresh = records(tmp_path / "fresh")[record["run_id"]]
        assert fresh["valid"] == record["valid"], variant
        assert fresh["test"] == record["test"], variant
        assert fresh["train"]["loss_last"] == record["train"]["loss_last"], variant
        assert fresh["forgetting"] == record["forgetting"], variant


# -- locks, kills and interrupts --------------------------------------------------------------------------------------
@pytest.mark.slow
def test_two_sweeps_at_once_train_each_id_once(overrides: list[str], tmp_path: Path) -> None:
    """Each run's log begins once, whichever process did it, and both end well; no lock is left."""
    words = with_words(overrides, "seed=0,1,2", "steps=30")
    both = [
        subprocess.Popen([sys.executable, "train.py", "-m", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [p.communicate(timeout=300)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0]
    began = re.findall(r"(\S+): run on cpu", "".join(outputs))
    assert len(began) == len(set(began)) == 3
    assert not (tmp_path / "runs" / ".locks").exists()
    assert not (tmp_path / "runs" / ".replaced").exists()
    assert "3 of 3" in outputs[0]
    assert "3 of 3" in outputs[1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(n, marks=pytest.mark.drill) for n in range(2, 22))])
def test_a_run_killed_at_any_moment_ends_as_one_that_was_not(
    overrides: list[str], small_job: Any, tmp_path: Path, seed: int
) -> None:
    """kill -9 at random moments from start to saving, twice a run; then the same command ends with the same bits."""
    more = ["steps=60", "train.checkpoint_every=7", "eval.batch_size=1", "variant=antipasto_dplr", "rank=8"]
    words = with_words(overrides, *more)
    whole = run(small_job(*more, f"runs_dir={tmp_path / 'whole'}"))
    name, folder = whole["run_id"], tmp_path / "runs"
    rng, killed = random.Random(seed), []
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "train.py", *words], cwd=ROOT, stderr=subprocess.DEVNULL)
        phase = rng.choice(["start", "checkpoint", "metrics.jsonl", "adapter.safetensors", "predictions.jsonl"])
        while phase != "start" and process.poll() is None and not (folder / name / phase).exists():
            time.sleep(0.005)
        time.sleep(rng.random() * (4.0 if phase == "start" else 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed.append((phase, process.returncode))
    assert any(code == -signal.SIGKILL for _, code in killed), killed
    last = train(*words)
    assert last.returncode == 0, last.stderr
    assert results(folder, name) == results(tmp_path / "whole", name), killed
    answered = [json.loads(x) for x in (folder / name / "predictions.jsonl").read_text().splitlines()]
    assert len({(a["split"], a["index"]) for a in answered}) == len(answered) == 16
    assert not (folder / name / "checkpoint").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_starts_no_further_job(
    overrides: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    """The job at work checkpoints and says `interrupted`; 130; the same command finishes the sweep."""
    words = with_words(overrides, "seed=0,1", "steps=200")
    process = subprocess.Popen(
        [sys.executable, "train.py", "-m", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not list((tmp_path / "runs").glob("*/metrics.jsonl")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    ((name, record),) = records(tmp_path / "runs").items()
    assert record["status"] == "interrupted"
    assert (tmp_path / "runs" / name / "checkpoint" / "state.safetensors").exists()
    assert f"{name}: interrupted" in errors.split("sweep: 0 of 2 runs are finished")[1]
    assert errors.count(": not run") == 1
    again = train("-m", *words)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count(": resume on cpu") == 1
