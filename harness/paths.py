"""Where the repository lies: its root, its configs, and how a relative path is read."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
PUBLISHED = ROOT / "runs" / "published"


def under_root(path: str) -> Path:
    """Relative paths are the repository's, wherever the command was typed."""
    return Path(path) if Path(path).is_absolute() else ROOT / path
