"""Files and folders that are whole or not there (see `adapters.atomic_file`), and locks between processes."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from adapters import atomic_file
from harness.hashing import file_sha256, sha256


def write_text(path: Path, text: str) -> None:
    """`text` as UTF-8, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def acquire(locks: Sequence[FileLock], waiting: str) -> FileLock:
    """The first free one of the locks. Says `waiting` once if other processes hold them all, and waits.

    Raises OSError where nothing can be locked.
    """
    said = False
    while True:
        for lock in locks:
            with suppress(Timeout, FileNotFoundError):  # held; or its last holder has just removed the folder
                Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=0)
                return lock
        if not said:
            print(waiting, file=sys.stderr, flush=True)
        said = True
        time.sleep(0.2)


def cached_folder(cache: Path, key: str, fill: Callable[[Path], object]) -> Path:
    """The folder `<key>-<digest of its files>` in `cache`. Filled once by all processes, and again if it is damaged."""
    cache.mkdir(parents=True, exist_ok=True)
    part = cache / f"{key}.part"
    with FileLock(cache / f"{key}.lock"):  # released when its process is killed
        for place in cache.glob(f"{key}-*"):
            if place.name == f"{key}-{_digest(place)}":
                return place
            print(f"{place}: damaged; writing it again", file=sys.stderr, flush=True)
            shutil.rmtree(place)
        shutil.rmtree(part, ignore_errors=True)  # left by a killed process
        part.mkdir()
        try:
            fill(part)
            return part.rename(cache / f"{key}-{_digest(part)}")
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _digest(folder: Path) -> str:
    return sha256({f.name: file_sha256(f) for f in folder.iterdir()})[:16]
