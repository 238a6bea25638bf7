"""What a launcher lacks is said before any job is handed to it."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
from typing import Any

import pytest

from harness.cli.launcher_check import check_launcher
from harness.cli.preflight import preflight

WAIT = r"hydra.launcher.ray.remote.num_%s: no node has as many .PUs, .*, got \d+; expected a number <= %s\."
NO_CLUSTER = (
    r"hydra.launcher.ray.init.address: no Ray cluster answers \(Connection refused\), got '127.0.0.1:1'\. Start .*\."
)
REFUSED = [
    (["remote.num_gpus=1"], WAIT % ("gpus", 0)),
    (["remote.num_cpus=999"], WAIT % ("cpus", os.cpu_count())),
    (["init.num_cpus=1", "remote.num_cpus=2"], WAIT % ("cpus", 1)),
    (["init.address=127.0.0.1:1"], NO_CLUSTER),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[" ".join(w) for w, _ in REFUSED])
def test_what_no_node_has_is_refused(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr("harness.cli.launcher_check.gpu_count", lambda: 0)
    with pytest.raises(SystemExit) as stopped:
        preflight(["-m", *overrides, "hydra/launcher=ray", *(f"hydra.launcher.ray.{w}" for w in words)])
    assert re.fullmatch(message, str(stopped.value.code))


def test_swept_words_are_none_of_the_launchers(overrides: list[str]) -> None:
    check_launcher([*overrides, "seed=0,1", "experiment=quick,seeds", "variant=lora,dora"], [])
    check_launcher(["experiment=quick", "hydra.launcher.n_jobs=1", "hydra/launcher=joblib"], [])


PLUGINS = {"joblib": "joblib", "ray": "ray", "submitit_local": "submitit", "submitit_slurm": "submitit"}


@pytest.mark.parametrize("name", PLUGINS)
@pytest.mark.parametrize("missing", ["hydra_plugins", "hydra_plugins.hydra_{}_launcher"])
def test_a_missing_plugin_is_named(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch, name: str, missing: str
) -> None:
    """Also where another launcher's plugin is there, and so the package that holds them all."""
    find = importlib.util.find_spec
    package = missing.format(PLUGINS[name])

    def without(module: str) -> Any:
        if module == package or not module.startswith(f"{package}."):
            return None if module == package else find(module)
        raise ModuleNotFoundError(f"No module named {package!r}")

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(SystemExit) as stopped:
        preflight(["-m", *overrides, f"hydra/launcher={name}"])
    line = f"hydra/launcher: its plugin is not installed, got '{name}'. pip install '.[sweeps]'"
    assert stopped.value.code == line


def test_joblib_starts_no_more_processes_than_there_are_gpus(
    overrides: list[str], small_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.cli.launcher_check.gpu_count", lambda: 2)
    on_gpu = dataclasses.replace(small_job(), device="cuda")
    words = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=3"]
    with pytest.raises(SystemExit) as stopped:
        check_launcher(words, [on_gpu])
    assert str(stopped.value.code).startswith("hydra.launcher.n_jobs: more processes than GPUs, got 3; expected an int")
    check_launcher(words[:1], [on_gpu])
    check_launcher(words, [small_job()])
    check_launcher(words, [dataclasses.replace(on_gpu, share_gpu=True)])


def test_slurm_needs_sbatch_and_its_jobs_run_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(SystemExit, match=r"hydra/launcher: SLURM is not installed here \(no sbatch on PATH\), got "):
        check_launcher(["hydra/launcher=submitit_slurm"], [])
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert not check_launcher(["hydra/launcher=submitit_slurm"], [])
    assert check_launcher(["hydra/launcher=joblib", "hydra.launcher.n_jobs=1"], [])
    assert check_launcher(["seed=0,1"], [])
