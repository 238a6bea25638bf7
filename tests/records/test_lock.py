"""Folders that cannot be used are refused in one line, and what a kill left behind is removed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.errors import BadInput
from harness.records.lock import check_writable, lock
from harness.run import run


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EIO, errno.ENOSYS, errno.EROFS])
def test_a_disk_without_locks_is_refused_in_one_line(tmp_path: Path, monkeypatch: Any, code: int) -> None:
    """Never a traceback, and no waiting for a lock that will never come."""

    def fails(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", fails)
    before = len(os.listdir("/proc/self/fd"))
    with (
        pytest.raises(
            BadInput, match=rf"^runs_dir: cannot be locked \({os.strerror(code)}\), got '.*runs_dir=<folder>\.$"
        ),
        lock(tmp_path / "runs", "id"),
    ):
        pass
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("dangling", "a link to a folder that is gone"),
        ("file", "not a folder"),
        ("below a file", "not a folder"),
        ("proc", "cannot"),
    ],
)
def test_what_is_no_folder_is_refused(tmp_path: Path, kind: str, what: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "purged")
    folder = {"below a file": tmp_path / "file" / "runs", "proc": Path("/proc/runs")}.get(kind, tmp_path / kind)
    with pytest.raises(BadInput, match=rf"^runs_dir: {what}.*, got '.*[Gg]ive another: runs_dir=<folder>\.$"):
        check_writable(folder, "runs_dir")
    assert not (tmp_path / "purged").exists()


@pytest.mark.parametrize("removed", [False, True])
def test_a_lock_leaves_nothing_and_survives_a_removed_folder(tmp_path: Path, removed: bool) -> None:
    with lock(tmp_path / "runs", "id"):
        assert (tmp_path / "runs" / ".locks" / "id.lock").exists()
        if removed:
            shutil.rmtree(tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_left_by_a_kill_is_removed_by_the_next_run_of_the_id(small_job: Any) -> None:
    job = small_job("variant=none")
    folder = job.runs_dir / run(job)["run_id"]
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "step").write_text("")
    run(job)
    assert not (folder / "checkpoint").exists()
