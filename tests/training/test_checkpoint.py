"""A training checkpoint that is not what was saved: named in one line, and training starts again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import adapters as ad
from harness.evaluation.predictions import Prediction, lines_of, whole_chunks
from harness.run import run
from harness.training import checkpoint, loop
from harness.training.checkpoint import DamagedCheckpointError, Progress, checkpoint_interval, load_checkpoint
from harness.training.interrupt import Interrupted
from harness.training.loop import train
from tests.conftest import attached, examples
from tests.training.test_loop import metric_rows, parameters, stop_at

STEPS, STOP = 8, 5


def fit(model: Any, job: Any, folder: Path, said: list[str], check: Any = lambda: None) -> Progress:
    folder.mkdir(exist_ok=True)
    return train(model, job, examples(), 0, folder, said.append, check)


@pytest.fixture
def unfinished(model: Any, small_job: Any, tmp_path: Path) -> tuple[Any, Any, Path]:
    """Model, job and folder of a run that was interrupted after five steps."""
    job, folder = small_job(f"steps={STEPS}", "train.checkpoint_every=100"), tmp_path / "run"
    with attached(model), pytest.raises(Interrupted):
        fit(model, job, folder, [], stop_at(STOP, Interrupted))
    return model, job, folder


def state_of(folder: Path) -> Path:
    return folder / "checkpoint" / "state.safetensors"


def test_any_flipped_bit_or_cut_is_damage(unfinished: tuple[Any, Any, Path]) -> None:
    """In header, names, numbers or tensors; nothing is loaded then."""
    model, _, folder = unfinished
    path = state_of(folder)
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little") + 8
    places = [*range(0, header, 41), *range(header, len(whole), (len(whole) - header) // 40)]
    contents = [bytes(b ^ (1 << k % 8) * (n == k) for n, b in enumerate(whole)) for k in places]
    contents += [whole[:n] for n in (0, 7, 100, header, len(whole) // 2, len(whole) - 1)] + [whole + b"\0"]
    with attached(model) as handle:
        params = handle.trainable()
        optimizer = torch.optim.AdamW(params.values())
        before = parameters(model)
        for content in contents:
            path.write_bytes(content)
            with pytest.raises(DamagedCheckpointError):
                load_checkpoint(folder, params, optimizer)
            assert all(torch.equal(p, before[n]) for n, p in params.items())
            assert not optimizer.state
        path.write_bytes(whole)
        assert load_checkpoint(folder, params, optimizer).step == STOP


def tampered(path: Path, **changes: Any) -> None:
    """Rewrites the file with other numbers, or tensors, under the old checksum."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    metadata["progress"] = json.dumps(json.loads(metadata["progress"]) | changes.get("progress", {}))
    save_file(load_file(path) | changes.get("tensors", {}), path, metadata=metadata)


@pytest.mark.parametrize("damage", ["cut", "step", "tensor", "moment", "other adapter", "metrics"])
def test_training_starts_again_to_the_same_numbers(
    unfinished: tuple[Any, Any, Path], small_job: Any, tmp_path: Path, damage: str
) -> None:
    """Except where only metrics.jsonl is garbled: then it resumes, since the checkpoint has the losses."""
    model, job, folder = unfinished
    path = state_of(folder)
    tensors = load_file(path)
    name = next(n for n in tensors if n.startswith("param.") and n.endswith("lora_B"))
    moment = name.replace("param.", "exp_avg.")
    if damage == "cut":
        os.truncate(path, 1000)
    elif damage == "step":
        tampered(path, progress={"step": STOP + 1})
    elif damage in ("tensor", "moment"):
        key = name if damage == "tensor" else moment
        tampered(path, tensors={key: tensors[key] * 2})
    elif damage == "other adapter":
        with attached(model, "antipasto_dplr") as handle:
            progress = Progress(step=STOP, losses=[1.0] * STOP)
            checkpoint.save_checkpoint(
                folder, handle.trainable(), torch.optim.AdamW(handle.trainable().values()), progress
            )
    else:
        (folder / "metrics.jsonl").write_bytes(b"\xff\xfe{\n" * STOP)
    said: list[str] = []
    with attached(model):
        result = fit(model, job, folder, said)
        found = parameters(model)
    with attached(model):
        whole = fit(model, job, tmp_path / "whole", [])
        expected = parameters(model)
    assert result.losses == whole.losses
    assert all(torch.equal(p, expected[n]) for n, p in found.items())
    if damage == "metrics":
        assert f"resuming at step {STOP} of {STEPS}" in said
        return
    assert len([line for line in said if line.startswith("the checkpoint is damaged (")]) == 1
    assert metric_rows(folder) == metric_rows(tmp_path / "whole")


def test_a_run_goes_on_after_a_damaged_checkpoint(small_job: Any, monkeypatch: Any, capsys: Any) -> None:
    """The same command, and force=true: one line, no traceback, and the result of an undisturbed run."""
    true = loop.optimizer_step
    for force in ("false", "true"):
        job = small_job(f"force={force}", f"seed={len(force)}")
        with monkeypatch.context() as patch:
            patch.setattr(
                loop, "optimizer_step", lambda *a: (_ for _ in ()).throw(Interrupted) if a[4] == 3 else true(*a)
            )
            with pytest.raises(Interrupted):
                run(job)
        (path,) = job.runs_dir.glob("*/checkpoint/state.safetensors")
        os.truncate(path, 700)
        capsys.readouterr()
        again = run(job)
        assert again["status"] == "done"
        assert "the checkpoint is damaged (" in capsys.readouterr().err
        fresh = run(small_job(f"seed={len(force)}", f"runs_dir={job.runs_dir.parent / force}"))
        assert (again["test"], again["train"]["loss_last"]) == (fresh["test"], fresh["train"]["loss_last"])


def test_large_checkpoints_are_rare(model: Any, small_job: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """At most 10 MB a step on average; a run with longer intervals resumes from the last of them."""

    def parameters_of(count: int) -> dict[str, torch.nn.Parameter]:
        return {"w": torch.nn.Parameter(torch.empty(count, device="meta"))}

    assert checkpoint_interval(parameters_of(4_587_520), 100) == 100  # lora on Qwen3-0.6B: 55 MB
    assert checkpoint_interval(parameters_of(596_049_920), 100) == 715  # full: 7.15 GB
    steps = []
    job = small_job(f"steps={STEPS}", "train.checkpoint_every=1")
    with attached(model) as handle:
        size = sum(12 * p.numel() for p in handle.trainable().values())
        monkeypatch.setattr(checkpoint, "BYTES_PER_STEP", size // 3)
        monkeypatch.setattr(loop, "save_checkpoint", lambda *inputs: steps.append(inputs[-1].step))
        fit(model, job, tmp_path / "run", [])
    assert steps == [3, 6, 8]


def test_files_are_never_rewritten_in_place(unfinished: tuple[Any, Any, Path], monkeypatch: Any) -> None:
    """Killed, or out of disk, while metrics.jsonl or predictions.jsonl is trimmed: the old file is still whole."""
    model, _, folder = unfinished
    metrics, file = folder / "metrics.jsonl", folder / "predictions.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 99')
    file.write_text(lines_of([Prediction("test", n, "x", True) for n in range(3)]) + '{"spl')
    before = metrics.read_bytes(), file.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with attached(model) as handle:
        params = ad.attachment(model).trainable()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space"):
                load_checkpoint(folder, params, torch.optim.AdamW(params.values()))
            with pytest.raises(OSError, match="No space"):
                whole_chunks(file, "test", [[0, 1], [2, 3]])
        assert (metrics.read_bytes(), file.read_bytes()) == before
        assert not list(folder.glob("*.tmp"))
        load_checkpoint(folder, handle.trainable(), torch.optim.AdamW(params.values()))
    assert len(metrics.read_text().splitlines()) == STOP
    assert set(whole_chunks(file, "test", [[0, 1], [2, 3]])) == {0, 1}
