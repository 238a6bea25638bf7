"""Every launcher for real: a sweep with a failing job, and a sweep that loses the process of one."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.programs import BROKEN, process_of, records, start, with_words

LAUNCHERS = {
    "basic": [],
    "joblib": ["hydra/launcher=joblib"],
    "submitit_local": ["hydra/launcher=submitit_local"],
    "ray": ["hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2"],
}
PLUGINS = {"joblib": "joblib", "submitit_local": "submitit", "ray": "ray"}
# joblib crosses process borders and is the quickest launcher that does; the drill tries all of them.
TRIED = ["joblib", *(pytest.param(name, marks=pytest.mark.drill, id=f"{name}-drill") for name in LAUNCHERS)]


@pytest.fixture(params=TRIED)
def launcher(request: Any) -> str:
    if request.param in PLUGINS and importlib.util.find_spec(PLUGINS[request.param]) is None:
        pytest.skip(f"{PLUGINS[request.param]} is not installed: pip install '.[sweeps]'")
    return str(request.param)


def train(words: list[str], folder: Path) -> tuple[int, str, str]:
    process = start(words, folder)
    out, errors = process.communicate(timeout=240)
    return process.returncode, out, errors


@pytest.mark.slow
def test_the_others_finish_and_the_failing_job_is_named(overrides: list[str], tmp_path: Path, launcher: str) -> None:
    """Class and traceback in its record, exit code 1; the same command again does only what is missing."""
    broken = tmp_path / "broken.jsonl"
    broken.write_text(BROKEN)
    good = next(w for w in overrides if w.startswith("data.test.path=")).split("=", 1)[1]
    words = with_words(overrides, f"data.test.path={broken},{good}", "variant=lora,none", "eval.limit=2")
    words += LAUNCHERS[launcher]
    code, _, errors = train(words, tmp_path)
    assert code == 1, errors
    found = records(tmp_path / "runs")
    assert sorted(r["status"] for r in found.values()) == ["done", "done", "failed", "failed"]
    assert "sweep: 2 of 4 runs are finished" in errors
    for name, record in found.items():
        if record["status"] == "failed":
            assert record["error"]["class"] == "BadInput"
            assert "rows.py" in record["error"]["traceback"]
            assert f"{name}: failed, BadInput: {broken}:2: not JSON" in errors
    finished = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").glob("*/result.json")}
    code, _, errors = train(words, tmp_path)
    assert code == 1, errors
    again = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").glob("*/result.json")}
    changed = {json.loads(p.read_text())["status"] for p in finished if again[p] != finished[p]}
    assert changed == {"failed"}


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time(overrides: list[str], tmp_path: Path, launcher: str) -> None:
    """SIGKILL to one job in mid-training: submitit and Ray finish the others; in the end all are done."""
    words = [*with_words(overrides, "seed=0,1,2", "steps=150", "train.checkpoint_every=20"), *LAUNCHERS[launcher]]
    sweep, killed = start(words, tmp_path), None
    deadline = time.monotonic() + 120
    while killed is None and sweep.poll() is None and time.monotonic() < deadline:
        if list((tmp_path / "runs").glob("*/metrics.jsonl")):
            killed = process_of(tmp_path / "runs" / ".locks")
        time.sleep(0.05)
    assert killed is not None
    killed.send_signal(signal.SIGKILL)
    _, errors = sweep.communicate(timeout=240)
    done = [r for r in records(tmp_path / "runs").values() if r["status"] == "done"]
    if launcher == "ray":  # it starts the job again
        assert (sweep.returncode, len(done)) == (0, 3), errors
    else:
        assert sweep.returncode != 0
        assert len(done) == 2 if launcher == "submitit_local" else len(done) < 3
    if launcher not in ("ray", "basic"):  # in the basic launcher it is the sweep itself that died
        assert re.search(r"sweep: \d of 3 runs are finished", errors)
    code, _, errors = train(words, tmp_path)
    assert code == 0, errors
    assert sorted(r["seed"] for r in records(tmp_path / "runs").values() if r["status"] == "done") == [0, 1, 2]
    assert not (tmp_path / "runs" / ".replaced").exists()
