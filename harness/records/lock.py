"""One process per run, and folders that can be written."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import refuse


@contextmanager
def lock(runs_dir: Path, run_id: str) -> Iterator[None]:
    """One process per run id; held from before the folder exists to after the record is written.

    The kernel frees it when its holder dies. Nothing is left behind, so that bad input leaves no trace.
    """
    path = runs_dir / ".locks" / f"{run_id}.lock"
    file, said = _taken(path), False
    while file is None:
        if not said:
            print(f"{run_id}: another process is running this; waiting for it to finish", flush=True)
        said = True
        time.sleep(0.2)
        file = _taken(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever waits sees that the file is gone and creates a new one
        os.close(file)
        for folder in (path.parent, runs_dir):
            with suppress(OSError):
                folder.rmdir()  # if it is empty


def _taken(path: Path) -> int | None:
    """The open, locked file; None while another process holds it. Raises BadInput where nothing can be locked."""
    file, locked = -1, False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked = os.fstat(file).st_nlink > 0  # else its last holder has just removed it
        if locked:
            return file
    except (BlockingIOError, FileNotFoundError):
        pass  # held; or the last holder removed the folder
    except OSError as error:
        remedy = "Give a folder on a disk that supports flock: runs_dir=<folder>."
        raise refuse("runs_dir", f"cannot be locked ({error.strerror})", got=str(path), remedy=remedy) from None
    finally:
        if not locked and file >= 0:
            os.close(file)
    return None


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
        raise refuse(key, f"cannot be written ({error.strerror})", got=str(folder), remedy=remedy) from None
