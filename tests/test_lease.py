"""One GPU to one process: real processes compete for named devices; no GPU is needed for that."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.cli.launcher_check import check_launcher
from harness.cli.preflight import preflight
from harness.device import one_gpu
from harness.paths import ROOT

HOLD = """
import sys, time
from pathlib import Path
from harness.lease import lease
names = sys.argv[2].split(",")
place = lease(names, Path(sys.argv[1]))
assert lease(names, Path(sys.argv[1])) == place  # the next job of a process stays where its model is
print(names[place], flush=True)
time.sleep(60)
"""


def holder(folder: Path, names: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), names],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line(stream: Any) -> str:
    return str(stream.readline()).strip()


def test_processes_never_meet_and_a_killed_one_frees_its_gpu(tmp_path: Path) -> None:
    """Two devices, three processes: the third waits, says so once, and gets the one that is freed."""
    folder = tmp_path / "locks"
    first = [holder(folder, "a,b"), holder(folder, "b,a")]
    held = [line(p.stdout) for p in first]
    assert sorted(held) == ["a", "b"]
    third = holder(folder, "a,b")
    assert line(third.stderr) == "all 2 GPUs are at other jobs; waiting for one (share_gpu=true would not)"
    only = holder(folder, held[0])
    assert line(only.stderr) == "the GPU is at other jobs; waiting for one (share_gpu=true would not)"
    first[1].send_signal(signal.SIGKILL)
    assert line(third.stdout) == held[1]
    assert only.poll() is None
    for p in (*first, third, only):
        p.kill()
        p.communicate()


def test_many_jobs_at_once(tmp_path: Path) -> None:
    """Six processes on two devices, each leaving after a moment: no device is ever held twice at a time."""
    code = HOLD.replace("time.sleep(60)", "time.sleep(0.3); print(time.time(), flush=True)")
    code = code.replace("print(names[place]", "print(names[place], time.time()")
    words = [sys.executable, "-c", code, str(tmp_path / "locks"), "a,b"]
    jobs = [subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    held = []
    for job in jobs:
        (name, began), (ended,) = map(str.split, job.communicate(timeout=60)[0].splitlines())
        held.append((name, float(began), float(ended)))
    assert Counter(name for name, _, _ in held).keys() == {"a", "b"}
    for name in "ab":
        spans = sorted(span for n, *span in held if n == name)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_cuda_becomes_the_leased_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`cuda` is the first free one of those seen, `cuda:<n>` that one; `cpu` asks for nothing."""
    import torch

    chosen: list[int] = []
    monkeypatch.setattr(lease, "_held", {})
    monkeypatch.setattr(lease.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda n: type("Properties", (), {"uuid": f"GPU-{n}"}))
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    one_gpu("cpu")
    assert list(tmp_path.iterdir()) == []
    folder = tmp_path / f"hookbench-gpus-{os.getuid()}"
    other = holder(folder, "GPU-0")
    line(other.stdout)
    for device in ("cuda", "cuda", "cuda:2", "cuda:1"):
        one_gpu(device)
    other.kill()
    other.communicate()
    assert chosen == [1, 1, 2, 1]
    assert folder.stat().st_mode & 0o777 == 0o700


# -- launchers --------------------------------------------------------------------------------------------------------
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
    monkeypatch.setattr(launchers.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(launchers, "gpu_count", lambda: 0)
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
    find = launchers.importlib.util.find_spec
    package = missing.format(PLUGINS[name])

    def without(module: str) -> Any:
        if module == package or not module.startswith(f"{package}."):
            return None if module == package else find(module)
        raise ModuleNotFoundError(f"No module named {package!r}")

    monkeypatch.setattr(launchers.importlib.util, "find_spec", without)
    with pytest.raises(SystemExit) as stopped:
        preflight(["-m", *overrides, f"hydra/launcher={name}"])
    line = f"hydra/launcher: its plugin is not installed, got '{name}'. pip install '.[sweeps]'"
    assert stopped.value.code == line


def test_joblib_starts_no_more_processes_than_there_are_gpus(
    overrides: list[str], small_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launchers, "gpu_count", lambda: 2)
    on_gpu = dataclasses.replace(small_job(), device="cuda")
    words = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=3"]
    with pytest.raises(SystemExit) as stopped:
        check_launcher(words, [on_gpu])
    assert str(stopped.value.code).startswith("hydra.launcher.n_jobs: more processes than GPUs, got 3; expected an int")
    check_launcher(words[:1], [on_gpu])
    check_launcher(words, [small_job()])
    check_launcher(words, [dataclasses.replace(on_gpu, share_gpu=True)])
