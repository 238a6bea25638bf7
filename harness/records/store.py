"""Records on disk: reading and writing result.json."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.files import write_text
from harness.records.record import OUTCOMES, Record, checked


def read_record(folder: Path) -> Record | None:
    """The record of a run folder, or None where there is none that can be read. Not to be changed in place."""
    try:
        return _read(folder / "result.json")
    except (OSError, ValueError):
        return None


def write_record(folder: Path, record: Record) -> None:
    write_text(folder / "result.json", json.dumps(record, indent=1) + "\n")


def _read(path: Path) -> Record:
    seen = path.stat()
    return _parse(path.resolve(), seen.st_size, seen.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _parse(path: Path, size: int, mtime_ns: int) -> Record:
    """A file is parsed once per process: a sweep asks for the same thousand records for each of its jobs."""
    return checked(json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Found:
    """Records of a folder, and a sentence for everything that was skipped."""

    records: list[Record]
    skipped: list[str]


def read_records(folders: Iterable[Path]) -> Found:
    """Every `<folder>/<id>/result.json` with an outcome. Of two records of one id, the first folder's counts.

    Unfinished runs, foreign files and damaged records are named, never counted.
    """
    records: dict[str, Record] = {}
    skipped = []
    for folder in folders:
        here: dict[str, Record] = {}
        for path in _run_folders(folder):
            try:
                here[path.name] = _outcome(path)
            except FileNotFoundError:
                skipped.append(f"{path.name}: no result.json (unfinished)")
            except (OSError, ValueError, RecursionError) as error:
                skipped.append(f"{path.name}: not a record ({str(error).splitlines()[0]})")
        records = here | records
    return Found([records[name] for name in sorted(records)], skipped)


def _run_folders(folder: Path) -> list[Path]:
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    return [p for p in there if p.is_dir() and p.name != "published" and not p.name.startswith(".")]


def _outcome(folder: Path) -> Record:
    record = _read(folder / "result.json")
    if record["run_id"] != folder.name:
        raise ValueError(f"its run_id is {record['run_id']}")
    if record["status"] == "interrupted":
        raise ValueError("interrupted; the same command resumes it")
    if record["status"] not in OUTCOMES:
        raise ValueError(f"status {record['status']}")
    return record
