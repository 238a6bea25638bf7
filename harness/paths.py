"""Where the repository lies: its root, its configs, and how a relative path is read."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
PUBLISHED = ROOT / "runs" / "published"


def under_root(path: str) -> Path:
    """Relative paths are the repository's, wherever the command was typed."""
    return Path(path) if Path(path).is_absolute() else ROOT / path


def run_folder(run: str, runs_dir: str) -> Path:
    """Of a run given by its id below `runs_dir`, or by its folder or a file in it, as a shell completes them."""
    if "/" not in run.rstrip("/"):
        return under_root(runs_dir) / run.rstrip("/")
    folder = next((p for p in (Path(run).absolute(), under_root(run)) if p.exists()), under_root(run))
    return folder.parent if folder.is_file() else folder
