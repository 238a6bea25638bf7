"""Records on disk: reading and writing result.json."""

from __future__ import annotations

import functools
import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.files import write_text
from harness.records.record import OUTCOMES, Record, one_line, parsed

UNREADABLE = (OSError, ValueError, RecursionError)


def read_record(folder: Path) -> Record | None:
    """A run folder's record, or None if it is missing or damaged. Do not change it in place."""
    try:
        return _read(folder / "result.json")
    except UNREADABLE:
        return None


def write_record(folder: Path, record: Record) -> None:
    write_text(folder / "result.json", json.dumps(record, indent=1) + "\n")


def _read(path: Path) -> Record:
    seen = path.stat()
    if not stat.S_ISREG(seen.st_mode) or seen.st_size > 16_000_000:
        raise ValueError("not a regular file, or above 16 MB")
    return _parse(path, seen.st_size, seen.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _parse(path: Path, size: int, mtime_ns: int) -> Record:
    """Cached: a sweep reads the same thousand records for each of its jobs."""
    return parsed(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Records:
    """Records of folders, and a sentence for everything that was skipped."""

    records: list[Record]
    skipped: list[str]


def read_records(folders: Iterable[Path]) -> Records:
    """Every `<folder>/<id>/result.json` with an outcome. Of two records of one id, the first folder's counts.

    Unfinished runs, foreign files and damaged records are named, never counted.
    """
    records: dict[str, Record] = {}
    skipped = []
    for folder in folders:
        here: dict[str, Record] = {}
        for path in _run_folders(folder):
            try:
                here[path.name] = outcome(path)
            except FileNotFoundError:
                skipped.append(f"{one_line(path.name)}: no result.json (unfinished)")
            except UNREADABLE as error:
                skipped.append(f"{one_line(path.name)}: not a record ({one_line(str(error))})")
        records = here | records
    return Records([records[name] for name in sorted(records)], skipped)


def _run_folders(folder: Path) -> list[Path]:
    entries = sorted(os.scandir(folder), key=lambda e: e.name) if folder.is_dir() else []
    return [folder / e.name for e in entries if e.is_dir() and e.name != "published" and not e.name.startswith(".")]


def outcome(folder: Path) -> Record:
    """The record of a run that has ended. Raises ValueError or OSError, with the reason, for anything else."""
    record = _read(folder / "result.json")
    if record["run_id"] != folder.name:
        raise ValueError(f"its run_id is {record['run_id']}")
    if record["status"] == "interrupted":
        raise ValueError("interrupted; the same command resumes it")
    if record["status"] not in OUTCOMES:
        raise ValueError(f"status {record['status']}")
    return record
