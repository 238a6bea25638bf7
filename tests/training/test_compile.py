"""Runs compiled.py, the tests of train.compile, in a process of its own.

One variant's alone: python -m pytest -o addopts= tests/training/compiled.py -k hra
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.paths import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("marked", ["not slow", pytest.param("slow", marks=pytest.mark.drill)])
def test_compiled_training(marked: str) -> None:
    words = ["-o", "addopts=", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", "-W", "ignore", "--tb=short"]
    command = [sys.executable, "-m", "pytest", *words, "-m", marked, "tests/training/compiled.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
