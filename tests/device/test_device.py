"""Runs this folder's tests of the simulated device, in processes of their own: see tools/benches/_simulated.py.

One variant's alone: python -m pytest -o addopts= tests/device/life.py -k hra
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from harness.paths import ROOT

ONE_HALF = "not bfloat16 or 8bit"  # of the tests in life.py, about as long as the other


@pytest.mark.slow
def test_on_the_simulated_device() -> None:
    """Both halves side by side."""
    passes(begun("meter", "life", "-k", ONE_HALF), begun("life", "-k", f"not ({ONE_HALF})"))


@pytest.mark.slow
@pytest.mark.drill
def test_launches_counted_anew() -> None:
    passes(begun("budgets"))


def begun(*words: str) -> subprocess.Popen[str]:
    """pytest on files of this folder, and with options, in a process of its own."""
    files = [f"tests/device/{w}.py" if w.isidentifier() else w for w in words]
    options = [
        "-o",
        "addopts=",
        "-q",
        "--import-mode=importlib",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore",
        "--tb=short",
    ]
    command = [sys.executable, "-m", "pytest", *options, *files]
    env = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # none is used, and their imports take seconds
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def passes(*started: subprocess.Popen[str]) -> None:
    try:
        ended = [(process.communicate(), process.returncode) for process in started]
    finally:
        for process in started:
            process.kill()  # nothing to a process that has ended
    assert [code for _, code in ended] == [0] * len(ended), "".join(
        out[-8000:] + err[-2000:] for (out, err), _ in ended
    )
