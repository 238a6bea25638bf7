"""Files that are whole or not there, with the mode that was asked for."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from harness.files import write_text
from harness.records.store import write_record
from tests import factory


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def killed(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("end", [full, killed])
@pytest.mark.parametrize("call", ["os.replace", "os.fsync", "os.chmod", "pathlib.Path.write_text", "tempfile.mkstemp"])
def test_the_old_file_outlives_every_failure(tmp_path: Path, monkeypatch: Any, call: str, end: Any) -> None:
    file = tmp_path / "file"
    write_text(file, "old")
    with monkeypatch.context() as patch:
        patch.setattr(call, end)
        for write in (lambda: write_text(file, "new"), lambda: write_record(tmp_path, factory.record())):  # type: ignore[arg-type]
            with pytest.raises((OSError, KeyboardInterrupt)):
                write()
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o002, 0o664), (0o022, 0o644)])
def test_the_umask_is_respected(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "file", "text")
    finally:
        assert os.umask(before) == mask
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode
