"""Generated files, as path → text: rewritten where they differ, or refused where a check finds that they do."""

from __future__ import annotations

from pathlib import Path

from harness.errors import refuse
from harness.files import write_text
from harness.paths import ROOT

Texts = dict[Path, str]


def rewrite(texts: Texts, figures: Path | None = None) -> list[str]:
    """Writes what differs, and removes the SVGs in `figures` that `texts` lacks; a line for each.

    Raises BadInput where a file cannot be written, and leaves it unchanged.
    """
    changed, stale = _changed(texts), _stale(texts, figures)
    for path in changed:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, texts[path])
        except OSError as error:
            raise refuse(str(path), f"cannot be written ({error.strerror})", remedy="It is unchanged.") from None
    for path in stale:
        path.unlink()
    return [*(f"{_shown(path)} rebuilt" for path in changed), *(f"{_shown(path)} removed" for path in stale)]


def check_unchanged(texts: Texts, source: str, figures: Path | None = None) -> None:
    """Raises SystemExit naming every file that `rewrite` would touch. source: what it differs from, and the remedy."""
    if different := [*_changed(texts), *_stale(texts, figures)]:
        raise SystemExit(f"{', '.join(map(_shown, different))}: not what {source}")


def _changed(texts: Texts) -> list[Path]:
    return [path for path, text in texts.items() if not path.exists() or path.read_bytes() != text.encode()]


def _stale(texts: Texts, figures: Path | None) -> list[Path]:
    return sorted(p for p in figures.glob("*.svg") if p not in texts) if figures else []


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
