"""Runs this folder's tests of the simulated device, each file in a process of its own: see tools/benches/_simulated.py.

One variant's alone: python -m pytest -o addopts= tests/device/life.py -k hra
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.paths import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("file", ["meter", "life", pytest.param("budgets", marks=pytest.mark.drill)])
def test_on_the_simulated_device(file: str) -> None:
    words = ["-o", "addopts=", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", "-W", "ignore", "--tb=short"]
    command = [sys.executable, "-m", "pytest", *words, f"tests/device/{file}.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
