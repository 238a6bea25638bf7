"""The SLURM launcher on a real SLURM of one node, from Debian's packages slurmctld, slurmd, slurm-client and munge."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.programs import BROKEN, records, results, start, train, with_words

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        not all(map(shutil.which, NEEDED)) or os.getuid() != 0,
        reason="needs root, and slurmctld, slurmd, slurm-client and munge installed",
    ),
]
CONFIG = """
ClusterName=drill
SlurmctldHost={host}(127.0.0.1)
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 Sockets=2 RealMemory=4000
PartitionName=main Nodes=ALL Default=YES State=UP OverTimeLimit=0
"""
# submitit asks sacct for the states of jobs; a cluster without accounting has only scontrol.
SACCT = r"""#!/bin/sh
echo "JobID|State|NodeList"
scontrol -o show jobs | sed -nE '
    s/^JobId=[0-9]+ ArrayJobId=([0-9]+) ArrayTaskId=([0-9]+) .*JobState=([A-Z]+) .* NodeList=(\S*) .*/\1_\2|\3|\4/p; t
    s/^JobId=([0-9]+) .*JobState=([A-Z]+) .* NodeList=(\S*) .*/\1|\2|\3/p'
"""


@contextmanager
def daemon(*words: str) -> Iterator[None]:
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "slurm"
    folder.mkdir(mode=0o755)
    with socket.socket() as one, socket.socket() as other:
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1], other.getsockname()[1]]
    config = CONFIG.format(folder=folder, host=socket.gethostname().partition(".")[0], ports=ports)
    (folder / "slurm.conf").write_text(config)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    sacct = folder / "sacct"
    sacct.write_text(SACCT)
    sacct.chmod(0o755)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    places = [f"--{name}-file={folder}/munge.{name.removesuffix('-file')}" for name in ("key", "log", "pid", "seed")]
    with ExitStack() as all_three:
        all_three.enter_context(daemon("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *places))
        wait((folder / "munge.socket").exists)
        all_three.enter_context(daemon("slurmctld", "-D"))
        all_three.enter_context(daemon("slurmd", "-D"))
        wait(lambda: "idle" in slurm("sinfo", "--noheader"))
        yield


def slurm(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True).stdout


def wait(for_it: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not for_it():
        assert time.monotonic() < deadline
        time.sleep(0.2)


pending: dict[str, float] = {}  # job → since when it waits


def soon() -> bool:
    """SLURM lets a job that it starts again wait for two minutes; here for ten seconds, when its old self is gone."""
    waits = set(slurm("squeue", "--noheader", "--format=%A", "--states=PD").split())
    for job in pending.keys() - waits:
        del pending[job]
    for job in waits:
        if time.monotonic() - pending.setdefault(job, time.monotonic()) > 10:
            slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
    return True


LAUNCHER = ["hydra/launcher=submitit_slurm", "hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1"]
LAUNCHER += ["hydra.launcher.mem_gb=1"]


def test_a_preempted_job_goes_on_and_a_failing_one_is_named(
    overrides: list[str], tmp_path: Path, cluster: None
) -> None:
    """The sweep outlives a job that SLURM stops and starts again; its bits are those of a run left in peace."""
    broken = tmp_path / "broken.jsonl"
    broken.write_text(BROKEN)
    good = next(w for w in overrides if w.startswith("data.test.path=")).split("=", 1)[1]
    words = with_words(
        overrides, f"data.test.path={good},{broken}", "seed=0,1", "steps=2000", f"hydra.sweep.dir={tmp_path / 'jobs'}"
    )
    sweep = start([*words, *LAUNCHER], tmp_path)
    wait(lambda: list((tmp_path / "runs").glob("*/metrics.jsonl")))
    first = slurm("squeue", "--noheader", "--format=%A", "--states=R").split()[-1]
    slurm("scontrol", "requeue", first)
    wait(lambda: soon() and sweep.poll() is not None, 240)
    _, errors = sweep.communicate()
    assert sweep.returncode == 1, errors
    found = records(tmp_path / "runs")
    assert sorted(r["status"] for r in found.values()) == ["done", "done", "failed", "failed"], errors
    assert "sweep: 2 of 4 runs are finished" in errors
    logs = "".join(p.read_text() for p in (tmp_path / "jobs").rglob("*.out"))
    assert logs.count(": resume on cpu") == 1, logs
    plain = train("-m", *with_words(words, f"runs_dir={tmp_path / 'plain'}", f"data.test.path={good}"))
    assert plain.returncode == 0, plain.stderr
    for name in records(tmp_path / "plain"):
        assert results(tmp_path / "runs", name) == results(tmp_path / "plain", name), name


def test_a_job_whose_time_is_up_goes_on(overrides: list[str], tmp_path: Path, cluster: None) -> None:
    """submitit_slurm's timeout: the job is stopped before its limit, starts again, and the sweep ends well."""
    words = with_words(
        overrides, "seed=0", "steps=6000", "train.checkpoint_every=50", f"hydra.sweep.dir={tmp_path / 'jobs'}"
    )
    limit = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=30"]
    sweep = start([*words, *LAUNCHER, *limit], tmp_path)
    wait(lambda: soon() and sweep.poll() is not None, 500)
    _, errors = sweep.communicate()
    assert sweep.returncode == 0, errors
    ((_, record),) = records(tmp_path / "runs").items()
    assert record["status"] == "done"
    logs = "".join(p.read_text() for p in (tmp_path / "jobs").rglob("*.out"))
    assert logs.count(": resume on cpu") >= 1, logs
