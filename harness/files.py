"""Text files that are whole or not there (see `adapters.atomic_file`)."""

from __future__ import annotations

from pathlib import Path

from adapters import atomic_file


def write_text(path: Path, text: str) -> None:
    """`text` as UTF-8, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
