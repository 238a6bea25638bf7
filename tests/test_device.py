"""One GPU to one process: real processes compete for named devices; no GPU is needed for that."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf

from harness.cli import task
from harness.device import gpu_is_lost, lease, one_gpu, usable_device
from harness.inputs.base_model import load_model
from harness.measure.provenance import provenance
from harness.paths import ROOT

HOLD = """
import sys, time
from pathlib import Path
from harness.device import lease
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
    assert line(third.stderr) == "all 2 GPUs in use by another job; waiting (share_gpu=true runs anyway)"
    only = holder(folder, held[0])
    assert line(only.stderr) == "GPU in use by another job; waiting (share_gpu=true runs anyway)"
    first[1].send_signal(signal.SIGKILL)
    assert line(third.stdout) == held[1]
    assert only.poll() is None
    for p in (*first, third, only):
        p.kill()
        p.communicate()


@pytest.mark.slow
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
    monkeypatch.setattr("harness.device._held", {})
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
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


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_a_lock_that_cannot_be_taken_is_one_line(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "locks"
    if kind == "file":
        folder.write_text("")
    else:
        folder.symlink_to("/nowhere/x")
    with pytest.raises(SystemExit) as stopped:
        lease(["a"], folder)
    assert str(stopped.value.code).startswith("device: no lock for the GPU (")
    assert str(stopped.value.code).endswith("Set TMPDIR to a local folder of your own, or share_gpu=true.")


def test_auto_takes_no_cpu_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch without CUDA beside a GPU would run for days on the CPU; a GPU that is hidden is not asked for."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("harness.device.gpu_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(SystemExit) as stopped:
        usable_device("auto")
    line = "device: this torch cannot use the GPU, got 'auto'. Install a torch with CUDA for this driver"
    assert str(stopped.value.code).startswith(line)
    assert usable_device("cpu") == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert usable_device("auto") == "cpu"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("harness.device.gpu_count", lambda: 0)
    assert usable_device("auto") == "cpu"


def test_cudnn_attention_is_off_and_recorded(small_job: Any) -> None:
    import torch

    torch.backends.cuda.enable_cudnn_sdp(True)
    assert "cudnn" in provenance("cpu")["attention"]
    load_model(small_job())
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert provenance("cpu")["attention"] == ["flash", "efficient", "math"]


@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize("launcher", ["hydra._internal.core_plugins.basic_launcher.BasicLauncher", "x.JoblibLauncher"])
def test_a_lost_gpu_ends_a_serial_sweep(lost: bool, launcher: str, monkeypatch: Any) -> None:
    """After a device-side assert every call fails, so the next jobs would too; any other error leaves them to run."""
    import torch

    def synchronize(*_: Any) -> None:
        if lost:
            raise RuntimeError("CUDA error: device-side assert triggered")

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA error")

    hydra = SimpleNamespace(mode=RunMode.MULTIRUN, launcher=SimpleNamespace(_target_=launcher))
    hydra.overrides = SimpleNamespace(task=["benchmark=tiny"])
    monkeypatch.setattr("hydra.core.hydra_config.HydraConfig.get", lambda: hydra)
    monkeypatch.setattr("harness.config.validate.job_from", fails)
    assert not gpu_is_lost()  # no CUDA in this process
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    assert gpu_is_lost() is lost
    if lost and launcher.endswith("BasicLauncher"):
        with pytest.raises(SystemExit, match="the GPU fails every further call"):
            task.launch(OmegaConf.create({}))
    else:
        assert task.launch(OmegaConf.create({})) is None
