"""One process per run, and folders that can be written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from harness.errors import refuse


@contextmanager
def lock(runs_dir: Path, run_id: str) -> Iterator[None]:
    """One process per run id; held from before the folder exists to after the record is written.

    The kernel frees it when its holder dies. Nothing is left behind, so that bad input leaves no trace.
    """
    path = runs_dir / ".locks" / f"{run_id}.lock"
    held = FileLock(path, poll_interval=0.2)
    while not held.is_locked:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # the holder before removed the folder just now
            try:
                held.acquire(timeout=0)
            except Timeout:
                print(f"{run_id}: another process is running this; waiting for it to finish", flush=True)
                held.acquire()
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
    while not os.path.exists(existing):  # unlike Path.exists, no PermissionError below somebody else's folder
        if os.path.islink(existing):
            remedy = f"Create that folder, or give another: {key}=<folder>."
            raise refuse(
                key, f"a link to a folder that is gone ({os.readlink(existing)})", got=str(folder), remedy=remedy
            )
        existing = existing.parent
    try:
        # For root, access rights say nothing about /proc or a read-only disk.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        raise refuse(key, what, got=str(folder), remedy=f"Give another: {key}=<folder>.") from None
