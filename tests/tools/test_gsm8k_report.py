"""Pages written from measurements match their JSON files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import gsm8k_gpu, gsm8k_report


def test_reports_match_the_json_files() -> None:
    """Like `make docs-check`: whoever changes a JSON or the writer rebuilds the texts."""
    gsm8k_report.main(["check=true"])


def test_only_cuda_measurements_are_reported(tmp_path: Path) -> None:
    """A part measured on a CPU does not count; one measured on CUDA has a row and leaves the line of the others."""
    names = gsm8k_gpu.part_names()
    part = {"seconds": 61.0, "result": {"tests": 5, "failures": 0, "errors": 0, "skipped": 1}}
    part["result"] |= {"provenance": {"device": "Some GPU"}}  # type: ignore[operator]
    (tmp_path / "tests.json").write_text(json.dumps(part | {"part": "tests", "device": "cpu"}))
    text = gsm8k_report.gpu_report(gsm8k_report.gpu_parts(tmp_path))
    assert f"Not measured: {', '.join(names)}.\n" in text
    assert "Some GPU" not in text
    assert "|" not in text
    (tmp_path / "tests.json").write_text(json.dumps(part | {"part": "tests", "device": "cuda"}))
    diverged = {"status": "diverged", "provenance": {"device": "Some GPU"}}
    run = {"part": "run-lora", "device": "cuda:0", "seconds": 1000.0, "result": diverged}
    (tmp_path / "run-lora.json").write_text(json.dumps(run))
    text = gsm8k_report.gpu_report(gsm8k_report.gpu_parts(tmp_path))
    assert "| tests | Some GPU | 61 | 4 passed, 1 skipped |" in text
    assert "| run-lora | Some GPU | 1,000 | diverged |" in text
    assert f"Not measured: {', '.join(n for n in names if n not in ('tests', 'run-lora'))}.\n" in text


def test_without_a_bench_the_costs_are_not_counted_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gsm8k_report, "REPORTS", tmp_path)
    monkeypatch.setattr(gsm8k_report, "smoke_report", lambda _: "")
    assert "Not counted yet (`make bench`)." in gsm8k_report.build()[gsm8k_report.GUIDE]
