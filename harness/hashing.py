"""TODO harness.hashing"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any


def sha256(value: Any) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes; asked again for an unchanged file, it is not read again."""
    seen = path.stat()
    return _file_sha256(path, seen.st_size, seen.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _file_sha256(path: Path, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
