"""GSM8K reports are what the measurements give."""

from __future__ import annotations

import json
from pathlib import Path

from tools import gsm8k_gpu, gsm8k_report


def test_reports_are_what_the_files_give() -> None:
    """Like `make table-check`: whoever changes a JSON or the writer rebuilds the texts."""
    gsm8k_report.main(["check=true"])


def test_what_no_cuda_device_measured_is_unmeasured(tmp_path: Path) -> None:
    """A part measured on a CPU counts for nothing; one measured on CUDA replaces its line alone."""
    part = {"key": "k", "seconds": 61.0, "result": {"tests": 5, "failures": 0, "errors": 0, "skipped": 1}}
    part["result"] |= {"provenance": {"device": "Some GPU"}}  # type: ignore[operator]
    (tmp_path / "tests.json").write_text(json.dumps(part | {"part": "tests", "device": "cpu"}))
    text = gsm8k_report.gpu_report(gsm8k_report.gpu_parts(tmp_path))
    assert text.count("**unmeasured**") == len(gsm8k_gpu.plan_names())
    assert "Some GPU" not in text
    (tmp_path / "tests.json").write_text(json.dumps(part | {"part": "tests", "device": "cuda"}))
    text = gsm8k_report.gpu_report(gsm8k_report.gpu_parts(tmp_path))
    assert "| tests | Some GPU | 61 | 4 passed, 1 skipped |" in text
    assert text.count("**unmeasured**") == len(gsm8k_gpu.plan_names()) - 1
