"""Whole runs as a user starts them: records, skips, evaluation again, and stops in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import eval_gsm8k
from harness.inputs.base_model import _loaded
from harness.paths import ROOT
from harness.records.plan import plan
from harness.records.store import write_record
from harness.reevaluate import evaluate, rescore
from harness.run import run

WORDS = ["benchmark=tiny", "variant=lora", "device=cpu", "threads=1", "eval.limit=8", "eval.max_new_tokens=24"]
KEYS = (  # DESIGN.md §4
    "schema_version run_id benchmark model variant rank lora_rank lr quantization seed steps status trainable_params "
    "adapter_file_bytes test valid train memory cost forgetting health science_hash code_hash provenance"
)
METRICS = "accuracy correct total flexible_accuracy truncated no_answer questions_hash correct_bits scorer_version"
METRICS += " response_loss response_tokens response_nats strata"
PROVENANCE = {"commit", "dirty", "argv", "versions", "threads", "device", "order_hash"}
FILES = {"config.yaml", "metrics.jsonl", "predictions.jsonl", "adapter.safetensors", "run.log", "result.json"}


def program(*words: str, **kw: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300, **kw)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """runs_dir and cache_dir of the module's runs of the real embedded benchmark."""
    place = tmp_path_factory.mktemp("end_to_end")
    return [f"runs_dir={place / 'runs'}", f"cache_dir={place / 'cache'}"]


@pytest.fixture(scope="module")
def finished(folders: list[str]) -> tuple[Path, dict[str, Any], str]:
    """Folder, record and output of `python train.py benchmark=tiny variant=lora steps=6 …`."""
    done = program("train.py", *WORDS, "steps=6", *folders)
    assert done.returncode == 0, done.stderr
    runs_dir = Path(folders[0].partition("=")[2])
    (path,) = runs_dir.glob("*/result.json")
    return path.parent, json.loads(path.read_text()), done.stdout


def test_a_run_leaves_a_whole_record(finished: tuple[Path, dict[str, Any], str]) -> None:
    folder, record, _ = finished
    assert set(KEYS.split()) - record.keys() == set()
    assert record["run_id"] == folder.name
    assert record["status"] == "done"
    assert (record["variant"], record["rank"], record["lora_rank"], record["steps"]) == ("lora", 8, None, 6)
    for split in ("valid", "test"):
        assert record[split].keys() == set(METRICS.split())
        assert record[split]["total"] == 8
    assert {"loss_first", "loss_last", "tokens", "tokens_per_s", "seconds"} <= record["train"].keys()
    assert record["memory"].keys() == {"attach", "train", "eval"}
    assert all(phase.keys() == {"peak_rss_gb"} and phase["peak_rss_gb"] > 0.05 for phase in record["memory"].values())
    assert {"added_macs_per_token", "forward_ms", "backward_ms", "attach_seconds"} <= record["cost"].keys()
    assert record["health"]["no_base_gradient"] is True
    assert record["health"]["base_unchanged"] is True
    assert record["health"]["identity_error"] == 0.0
    assert record["adapter_file_bytes"] == (folder / "adapter.safetensors").stat().st_size
    assert PROVENANCE - record["provenance"].keys() == set()
    assert record["provenance"]["threads"] == 1
    assert set(os.listdir(folder)) == FILES  # no checkpoint is left
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 6
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == 16


def test_added_work_is_the_adapters_own(finished: tuple[Path, dict[str, Any], str]) -> None:
    """LoRA's two products: as many multiply-accumulates per token as it has parameters."""
    _, record, _ = finished
    assert record["cost"]["added_macs_per_token"] == record["trainable_params"]


def test_the_last_lines_say_what_a_user_wants(finished: tuple[Path, dict[str, Any], str]) -> None:
    folder, record, output = finished
    m = record["test"]
    accuracy = f"{100 * m['accuracy']:.1f} % ["
    for text in (accuracy, f"({m['correct']}/8", f"{record['trainable_params']:,}", str(folder)):
        assert text in output
    assert "GB RSS" in output


def test_the_same_command_skips(finished: tuple[Path, dict[str, Any], str], folders: list[str]) -> None:
    folder, record, _ = finished
    before = (folder / "result.json").stat().st_mtime_ns
    done = program("train.py", *WORDS, "steps=6", *folders)
    assert done.returncode == 0, done.stderr
    assert f"{folder.name}: finished already, skipped" in done.stdout
    assert (folder / "result.json").stat().st_mtime_ns == before
    assert record["run_id"] == folder.name


@pytest.mark.parametrize("split", ["test", "valid"])
def test_evaluated_again_it_is_the_same(
    finished: tuple[Path, dict[str, Any], str], folders: list[str], split: str, capsys: Any
) -> None:
    """From the saved adapter, on a fresh base: the same bits, question by question."""
    folder, record, _ = finished
    if split == "test":
        done = program("eval_gsm8k.py", f"run={folder.name}", folders[0], "device=cpu")
        assert done.returncode == 0, done.stderr
        output = done.stdout
    else:
        evaluate(folder.name, str(folder.parent), split, limit=None, device="cpu")
        output = capsys.readouterr().out
    assert "the same questions are right" in output
    assert f"({record[split]['correct']}/8, 95 % interval)" in output
    assert "response loss {0:.4f}, recorded {0:.4f} nats".format(record[split]["response_loss"]) in output


def test_a_run_is_named_by_its_folder_too_and_an_unfinished_one_says_so(
    finished: tuple[Path, dict[str, Any], str], tmp_path: Path, capsys: Any
) -> None:
    folder, record, _ = finished
    for place in (folder, f"{folder}/", folder / "result.json"):
        eval_gsm8k.main([f"run={place}", "rescore=true"])
        assert "the same questions are right" in capsys.readouterr().out
    (tmp_path / "x").mkdir()
    write_record(tmp_path / "x", record | {"status": "interrupted"})
    with pytest.raises(SystemExit, match=r"run: this run is not finished \(interrupted\), got 'x'\. The"):
        eval_gsm8k.main(["run=x", f"runs_dir={tmp_path}"])


def test_rescoring_loads_no_model(finished: tuple[Path, dict[str, Any], str], folders: list[str]) -> None:
    """The stored predictions give the record's figures; write=true puts a changed score into it."""
    folder, record, _ = finished
    code = f"""
import runpy, sys
sys.argv = ["eval_gsm8k.py", "run={folder.name}", {folders[0]!r}, "rescore=true", "write=true"]
runpy.run_path("eval_gsm8k.py", run_name="__main__")
loaded = [m for m in sys.modules if m == "transformers.modeling_utils" or m.startswith("transformers.models.")]
assert not loaded, loaded
"""
    done = program("-c", f"import sys; sys.path.insert(0, '')\n{code}")
    assert done.returncode == 0, done.stderr
    assert "the same questions are right" in done.stdout
    assert json.loads((folder / "result.json").read_text()) == record


def test_what_was_changed_since_is_named(finished: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    folder, record, _ = finished
    other = tmp_path / folder.name
    other.mkdir()
    for name in ("config.yaml", "predictions.jsonl", "adapter.safetensors"):
        (other / name).write_bytes((folder / name).read_bytes())
    write_record(other, record | {"science": record["science"] | {"data.test": "sha256:x"}})
    with pytest.raises(SystemExit, match=r": not what it was: data.test\. Restore it, or run it again\.$"):
        evaluate(folder.name, str(tmp_path), "test", limit=None, device="cpu")
    old = {split: record[split] | {"scorer_version": 1} for split in ("test", "valid")}
    write_record(other, record | old)
    rescore(folder.name, str(tmp_path), "valid", write=True)
    assert json.loads((other / "result.json").read_text()) == record  # both splits: a record has one scorer
    lines = (other / "predictions.jsonl").read_text().splitlines()
    (other / "predictions.jsonl").write_text("\n".join(lines[:-1]))
    with pytest.raises(SystemExit, match="stored predictions do not cover the questions, got 7; expected 8"):
        rescore(folder.name, str(tmp_path), "test", write=False)


def assert_same_adapter(one: Path, other: Path) -> None:
    """Tensors bit for bit, and the metadata (whose order in the file is safetensors' own, and random)."""
    with safe_open(one, framework="pt") as a, safe_open(other, framework="pt") as b:
        assert a.metadata() == b.metadata()
        assert sorted(a.keys()) == sorted(b.keys())
        assert all(torch.equal(a.get_tensor(k), b.get_tensor(k)) for k in a.keys())  # noqa: SIM118 (no iterator)


# -- floor and ceiling ------------------------------------------------------------------------------------------------
def test_the_floor_trains_nothing(small_job: Any) -> None:
    job = small_job("variant=none")
    record = run(job)
    assert record["status"] == "done"
    assert (record["trainable_params"], record["lr"], record["seed"], record["steps"]) == (0, None, None, 0)
    assert "train" not in record
    assert record["forgetting"]["nats"] == 0
    assert record["cost"]["added_macs_per_token"] == 0
    assert record["health"]["base_unchanged"] is True
    evaluate(record["run_id"], str(job.runs_dir), "test", limit=None, device="cpu")


def test_the_ceiling_trains_everything_and_gives_the_base_back(small_job: Any, model: Any, capsys: Any) -> None:
    """The next run of the same process finds the base as it was."""

    job = small_job("variant=full", "steps=25", "lr=1e-3")
    record = run(job)
    assert record["trainable_params"] == sum(p.numel() for p in model.parameters())
    assert record["health"]["moved"] is True
    assert record["health"]["base_unchanged"] is None
    (_, kept), *_ = _loaded.values()
    assert all(torch.equal(p, q) for p, q in zip(kept.parameters(), model.parameters(), strict=True))
    assert not any(p.grad is not None for p in kept.parameters())
    evaluate(record["run_id"], str(job.runs_dir), "test", limit=None, device="cpu")
    assert "the same questions are right" in capsys.readouterr().out


@pytest.mark.parametrize("variant", ["antipasto_dplr", "antipasto_corda"])
def test_runs_are_repeatable(small_job: Any, tmp_path: Path, variant: str) -> None:
    """Same seed, same numbers and bytes, also where a basis was cached or calibrated; another seed, others."""
    words = [f"variant={variant}", "rank=8", "steps=4"]
    first = run(small_job(*words))
    second = run(small_job(*words, f"runs_dir={tmp_path / 'second'}"))
    third = run(small_job(*words, "seed=1"))
    assert first["test"] == second["test"]
    assert first["train"]["loss_last"] == second["train"]["loss_last"] != third["train"]["loss_last"]
    assert first["provenance"]["order_hash"] == second["provenance"]["order_hash"] != third["provenance"]["order_hash"]
    assert_same_adapter(*(tmp_path / d / first["run_id"] / "adapter.safetensors" for d in ("runs", "second")))


# -- stops ------------------------------------------------------------------------------------------------------------
def start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "train.py", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if condition():
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    assert process.stderr is not None
    raise AssertionError(f"the run ended ({process.poll()}) before it could be stopped: {process.stderr.read()}")


@pytest.mark.parametrize(("number", "file"), [(signal.SIGTERM, "metrics.jsonl"), (signal.SIGINT, "predictions.jsonl")])
def test_a_stopped_run_goes_on_to_the_same_result(
    overrides: list[str], small_job: Any, tmp_path: Path, number: signal.Signals, file: str
) -> None:
    """A signal in training, and one in evaluation: recorded as interrupted, continued by the same command."""
    more = ["steps=100", "eval.batch_size=1", "eval.max_new_tokens=24", "benchmark.valid_size=8"]
    given = {w.split("=", 1)[0]: w for w in [*overrides, *more]}
    words = list(given.values())
    whole = run(small_job(*more, f"runs_dir={tmp_path / 'whole'}"))
    folder = tmp_path / "runs" / whole["run_id"]
    process = start(words)
    wait_for(lambda: (folder / file).exists() and (folder / file).stat().st_size > 0, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "interrupted; the same command resumes" in errors
    assert json.loads((folder / "result.json").read_text())["status"] == "interrupted"
    assert (folder / "checkpoint" / "state.safetensors").exists()

    assert plan(small_job(*more)).action == "resume"
    record = run(small_job(*more))
    assert record["status"] == "done"
    for key in ("valid", "test", "forgetting", "adapter_file_bytes"):
        assert record[key] == whole[key]
    assert [record["train"][k] for k in ("loss_first", "loss_last", "tokens")] == [
        whole["train"][k] for k in ("loss_first", "loss_last", "tokens")
    ]
    assert_same_adapter(*(p / "adapter.safetensors" for p in (folder, tmp_path / "whole" / folder.name)))
