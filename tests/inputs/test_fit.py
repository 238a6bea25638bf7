"""What cannot run is found from the model's shapes, before weights or data are read."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from harness.cli.preflight import preflight
from harness.inputs.fit import check_fit
from harness.run import run

MISFITS = [
    (
        "targets=nope",
        "variant=lora: targets: no linear layer matches, got {'targets': 'nope'}; expected names ",
    ),
    ("variant.layers=[7]", "variant=lora: targets: no linear layer matches, got {"),
    ("rank=33", "rank: larger than any layer of the model, got 33; expected an integer <= 32."),
    ("batch_size=1000000000", "batch_size: needs at least "),
]


@pytest.mark.parametrize(("word", "line"), MISFITS, ids=[w for w, _ in MISFITS])
def test_a_misfit_is_refused_before_anything_is_loaded(
    small_job: Any, monkeypatch: pytest.MonkeyPatch, word: str, line: str
) -> None:
    def loads(*_: Any) -> Any:
        raise AssertionError("something was loaded")

    monkeypatch.setattr("harness.run.loaded", loads)
    monkeypatch.setattr("harness.run.load_data", loads)
    with pytest.raises(SystemExit) as stopped:
        run(small_job(word))
    assert str(stopped.value.code).startswith(line)


def test_a_dry_run_refuses_what_would_fail(overrides: list[str], tmp_path: Path, capsys: Any) -> None:
    """Each job in its line, with exit code 1; what a variant lacks is no reason."""
    words = [w for w in overrides if not w.startswith("variant=")]
    with pytest.raises(SystemExit) as stopped:
        preflight(["-m", *words, "variant=lora,ia3", "rank=8,33", "dry_run=true"])
    assert stopped.value.code == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "refuse", "run", "skip"]
    assert last.startswith("4 jobs: 2 to run, 1 to skip, 1 to refuse")
    with pytest.raises(SystemExit) as stopped:
        preflight([*words, "variant=lora", "runs_dir=/proc/x", "dry_run=true"][1:])
    assert stopped.value.code == 1
    assert not (tmp_path / "runs").exists()


def test_a_sweep_is_refused_before_its_first_job(overrides: list[str]) -> None:
    with pytest.raises(SystemExit, match="rank: larger than any layer of the model, got 33"):
        preflight(["-m", *overrides, "rank=8,33"])


def test_memory_counts_where_the_job_runs_and_a_split_batch_fits(small_job: Any) -> None:
    large = small_job("batch_size=1000000000")
    assert check_fit(large, here=False) == ""
    assert check_fit(dataclasses.replace(large, micro_batch=4)) == ""
    assert check_fit(small_job("variant=none", "batch_size=1000000000")) == ""  # trains nothing


def test_a_model_whose_config_is_not_at_hand_is_not_judged(small_job: Any) -> None:
    assert "not checked" in check_fit(small_job("model.id=no/such", "targets=nope"))
