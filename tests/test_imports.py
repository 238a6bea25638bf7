"""Light paths stay light: what a process imports is counted in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.paths import ROOT


def program(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", ["train.py", "eval_gsm8k.py", "cost_report.py"])
def test_help_is_quick(name: str) -> None:
    """It names its keys and imports neither torch nor transformers, which take seconds."""
    code = f"""
import runpy, sys
sys.argv = [{name!r}, "--help"]
try:
    runpy.run_path({name!r}, run_name="__main__")
except SystemExit as stopped:
    assert not stopped.code, stopped.code
heavy = {{"torch", "transformers", "datasets", "pandas"}} & sys.modules.keys()
assert not heavy, heavy
"""
    done = program("-c", f"import sys; sys.path.insert(0, '')\n{code}")
    assert done.returncode == 0, done.stderr
    assert "lora_rank" in done.stdout if name == "train.py" else "runs_dir=" in done.stdout


def test_importing_the_programs_does_nothing() -> None:
    done = program("-c", "import train, eval_gsm8k, cost_report, sys; assert 'torch' not in sys.modules")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def loaded(code: str, *packages: str) -> list[str]:
    """Which of the packages a fresh process has imported after the code."""
    done = program("-c", f"{code}\nimport sys\nprint('loaded:', *({set(packages)!r} & sys.modules.keys()))")
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("module", ["harness.records.store", "harness.records.record", "harness.report.table"])
def test_reading_records_loads_no_model_library(module: str) -> None:
    assert loaded(f"import {module}", "torch", "transformers") == []


def test_a_single_runs_preflight_loads_no_pandas(overrides: list[str]) -> None:
    """Only the report needs it, and importing it takes half a second."""
    code = "from harness.config.schema import register; register()\nfrom harness.cli.preflight import preflight\n"
    code += f"preflight({overrides!r})"
    assert loaded(code, "pandas") == []
    assert loaded(code, "hydra") == ["hydra"]  # so that an empty list says something
