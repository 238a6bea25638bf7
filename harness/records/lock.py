"""One process per run, and folders that can be written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from harness.errors import reason_of, refuse
from harness.files import acquire


@contextmanager
def lock(runs_dir: Path, run_id: str) -> Iterator[None]:
    """One process per run id; held from before the folder exists to after the record is written.

    Nothing is left behind, so that bad input leaves no trace. Raises BadInput where nothing can be locked.
    """
    path = runs_dir / ".locks" / f"{run_id}.lock"
    try:
        waiting = f"{run_id}: another process is running this; waiting for it to finish"
        held = acquire([FileLock(path, fallback_to_soft=False)], waiting)
    except OSError as error:
        remedy = "Give a folder on a disk that supports flock: runs_dir=<folder>."
        raise refuse("runs_dir", f"cannot be locked ({reason_of(error)})", got=str(path), remedy=remedy) from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever waits sees that the file is gone and creates a new one
        held.release()
        for folder in (path.parent, runs_dir):
            with suppress(OSError):
                folder.rmdir()  # if it is empty


def check_writable(folder: Path, key: str) -> None:
    """Raises BadInput where nothing can be stored below `folder`; leaves nothing behind."""
    existing = folder
    while not os.path.lexists(existing):  # unlike Path.exists, no PermissionError below somebody else's folder
        existing = existing.parent
    remedy = f"Give another: {key}=<folder>."
    if existing.is_symlink() and not existing.exists():
        what = f"a link to a folder that is gone ({os.readlink(existing)})"
        remedy = f"Create that folder, or give another: {key}=<folder>."
        raise refuse(key, what, got=str(folder), remedy=remedy)
    if not existing.is_dir():
        raise refuse(key, "not a folder", got=str(existing), remedy=remedy)
    try:
        # For root, access rights say nothing about /proc or a read-only disk.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise refuse(key, f"cannot be written ({reason_of(error)})", got=str(folder), remedy=remedy) from None
