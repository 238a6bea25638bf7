"""A Ray cluster of two nodes on one host, started as docs/sweeps.md says, loses a worker and then a whole node."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.programs import process_of, records, results, start, train, with_words

pytestmark = pytest.mark.ray
JOBS = 8


@contextmanager
def node(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """`ray start --block`, one processor; on leaving it is gone with all of its processes."""
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_DISABLE_IMPORT_WARNING": "1"}
    ray = str(Path(sys.executable).parent / "ray")
    process = subprocess.Popen(
        [ray, "start", "--num-cpus=1", "--disable-usage-stats", "--block", *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()  # it ends what it started
        process.wait(timeout=60)


def wait(for_it: Callable[[], object], sweep: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 300
    while not for_it():
        assert time.monotonic() < deadline
        assert sweep is None or sweep.poll() is None, sweep.communicate()
        time.sleep(0.05)


def nodes(address: str) -> int:
    """How many nodes of the cluster are alive, asked in a process of its own: a process knows one cluster only."""
    code = f"from harness.cli.launcher_check import ray_nodes; print(len(ray_nodes({address!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"RAY_AUTH_MODE": "disabled"}
    )
    return int(done.stdout) if done.returncode == 0 else 0


def at_work(node: subprocess.Popen[bytes], locks: Path) -> bool:
    """Whether a job is being done on the node: one of its processes holds a run's lock."""
    for process in psutil.Process(node.pid).children(recursive=True):
        with suppress(psutil.Error):
            if any(f.path.startswith(str(locks)) for f in process.open_files()):
                return True
    return False


def test_a_worker_and_a_node_are_lost_and_no_job_is(overrides: list[str], tmp_path: Path) -> None:
    """The sweep itself ends with every job done, each with the bits of a run that nothing happened to."""
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    seeds = "seed=" + ",".join(map(str, range(JOBS)))
    words = with_words(overrides, seeds, "steps=250", "train.checkpoint_every=20")
    cluster = ["hydra/launcher=ray", f"hydra.launcher.ray.init.address={address}"]
    cluster.append("hydra.launcher.ray.init.object_store_memory=null")
    done = lambda: [r for r in records(tmp_path / "runs").values() if r["status"] == "done"]
    head = node("--head", "--node-ip-address=127.0.0.1", f"--port={address.split(':')[1]}", "--include-dashboard=false")
    with head:
        wait(lambda: nodes(address) == 1)
        with node(f"--address={address}", "--node-ip-address=127.0.0.2") as second:
            wait(lambda: nodes(address) == 2)
            sweep = start([*words, *cluster], tmp_path)
            wait(lambda: list((tmp_path / "runs").glob("*/metrics.jsonl")), sweep)
            worker = process_of(tmp_path / "runs" / ".locks")
            assert worker is not None
            worker.send_signal(signal.SIGKILL)
            wait(lambda: len(done()) >= 2 and at_work(second, tmp_path / "runs" / ".locks"), sweep)
            for process in [psutil.Process(second.pid), *psutil.Process(second.pid).children(recursive=True)]:
                process.kill()
            wait(lambda: nodes(address) == 1, sweep)
        out, errors = sweep.communicate(timeout=400)
    assert sweep.returncode == 0, errors
    assert ": resume on cpu" in out, out
    found = records(tmp_path / "runs")
    assert [r["status"] for r in found.values()] == ["done"] * JOBS
    assert not (tmp_path / "runs" / ".replaced").exists()
    plain = train("-m", *with_words(words, f"runs_dir={tmp_path / 'plain'}"))
    assert plain.returncode == 0, plain.stderr
    for name in found:
        assert results(tmp_path / "runs", name) == results(tmp_path / "plain", name), name
