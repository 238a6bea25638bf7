"""Run ids, what makes two runs the same, records on disk, and whether a run is finished."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from adapters._bases import atomic_file
from harness.errors import refuse
from harness.paths import ROOT
from harness.records.record import _check


def finished_runs(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Records of runs that are done, in any of the folders."""
    return [r for r in read_records(sorted(folders)).records if r["status"] == "done"]


PUBLISHED = ROOT / "runs" / "published"


# -- records -----------------------------------------------------------------------------------------------------------
def read_record(folder: Path) -> dict[str, Any] | None:
    """result.json of a run folder, or None where there is none that can be read."""
    try:
        record = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and "status" in record else None


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """result.json, atomically: whoever reads it sees a whole record."""
    with atomic_file(folder / "result.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")


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
                print(f"{run_id}: another process is at it; waiting", flush=True)
                held.acquire()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever waits sees that the file is gone, and makes a new one
        held.release()
        for folder in (path.parent, runs_dir):
            with suppress(OSError):
                folder.rmdir()  # if it is empty


def check_writable(folder: Path, key: str) -> None:
    """Raises BadInput where nothing can be stored below `folder`; leaves nothing behind."""
    existing = folder
    while not os.path.exists(existing):  # unlike Path.exists, no PermissionError below somebody else's folder
        existing = existing.parent
    try:
        # For root, access rights say nothing about /proc or a read-only disk.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        raise refuse(key, what, got=str(folder), remedy=f"Give another: {key}=<folder>.") from None


@dataclass(frozen=True)
class Found:
    """Records read from a folder, and a sentence for everything that was not one."""

    records: list[dict[str, Any]]
    skipped: list[str]


def read_records(folders: Iterable[Path]) -> Found:
    """Every `<folder>/<id>/result.json`. Half-written, foreign and unreadable ones are named, never counted."""
    records, skipped = [], []
    for path in sorted(p for folder in folders if folder.is_dir() for p in folder.iterdir()):
        if path.name.startswith(".") or path.name == "published" or not path.is_dir():
            continue
        try:
            record = json.loads((path / "result.json").read_text())
            _check(record, path.name)
            records.append(record)
        except FileNotFoundError:
            skipped.append(f"{path.name}: no result.json (unfinished)")
        except KeyError as error:
            skipped.append(f"{path.name}: not a whole record, {error} is missing")
        except (OSError, TypeError, ValueError, AttributeError) as error:
            skipped.append(f"{path.name}: not a record ({str(error).splitlines()[0]})")
    return Found(records, skipped)
