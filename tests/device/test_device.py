"""Runs this folder's tests of the simulated device, in processes of their own: see tools/benches/_simulated.py.

One variant's alone: python -m pytest -o addopts= tests/device/life.py -k hra
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from harness.paths import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("files", ["meter life", pytest.param("budgets", marks=pytest.mark.drill)])
def test_on_the_simulated_device(files: str) -> None:
    words = ["-o", "addopts=", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", "-W", "ignore", "--tb=short"]
    command = [sys.executable, "-m", "pytest", *words, *(f"tests/device/{name}.py" for name in files.split())]
    env = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # none is used, and their imports take seconds
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
