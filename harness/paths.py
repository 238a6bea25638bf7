"""TODO harness.paths"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"


def under_root(path: str) -> Path:
    """Relative paths are the repository's, wherever the command was typed."""
    return Path(path) if Path(path).is_absolute() else ROOT / path
