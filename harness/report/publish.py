"""Published records to README.md and reports/; local runs to the terminal and reports/local/."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from harness.errors import refuse
from harness.paths import PUBLISHED, ROOT, under_root
from harness.records.store import read_record, read_records
from harness.report.build import REPORTS, build, files
from harness.report.others import read_peft
from harness.report.table import rows

KEPT = ("result.json", "config.yaml", "metrics.jsonl")  # small and enough for every table and plot


# -- writing -----------------------------------------------------------------------------------------------------------
def rebuild() -> None:
    texts, skipped = build()
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"{path.relative_to(ROOT)} rebuilt")
    for path in _stale(texts):
        path.unlink()
        print(f"{path.relative_to(ROOT)} removed")
    for line in skipped:
        print(f"not counted: {line}")


def _stale(texts: dict[Path, str]) -> list[Path]:
    """Figures of records that are no longer published."""
    return sorted(p for p in (REPORTS / "plots").glob("*.svg") if p not in texts)


def check() -> None:
    """Raises SystemExit(1) naming every file that differs from what the published records give."""
    texts, skipped = build()
    for line in skipped:
        print(f"not counted: {line}")
    different = [p for p, text in texts.items() if not p.exists() or p.read_text() != text] + _stale(texts)
    if different:
        names = ", ".join(str(p.relative_to(ROOT)) for p in different)
        raise SystemExit(f"{names}: not what runs/published gives. Run python cost_report.py and commit.")
    print(f"README.md and reports/ agree with {PUBLISHED.relative_to(ROOT)}")


def publish(ids: list[str], runs_dir: str) -> None:
    """Copies the small files of finished runs to runs/published/. Raises BadInput before copying anything."""
    base = under_root(runs_dir)
    for name in ids:
        record = read_record(base / name)
        if record is None or record["status"] not in ("done", "diverged"):
            got = record["status"] if record else None
            raise refuse(f"publish={name}", "not a finished run", got=got, expected="done or diverged")
    for name in ids:
        target = PUBLISHED / name
        target.mkdir(parents=True, exist_ok=True)
        for file in KEPT:
            if (base / name / file).exists():
                shutil.copyfile(base / name / file, target / file)
        print(f"published {name}")


def show(runs_dir: str, compare: str = "") -> None:
    """Published and local runs together, and PEFT's results from `compare`: on the terminal and in reports/local/."""
    base = under_root(runs_dir)
    found = read_records([base, PUBLISHED])
    theirs, skipped = read_peft(Path(compare)) if compare else (pd.DataFrame(), [])
    for line in found.skipped + skipped:
        print(f"not counted: {line}")
    frames = [frame for frame in (rows(found.records), theirs) if not frame.empty]
    shown = pd.concat(frames or [pd.DataFrame()], ignore_index=True)
    if shown.empty:
        print("no finished runs yet")
        return
    for name, text in files(shown, found.records, [base, PUBLISHED]).items():
        path = REPORTS / "local" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    brief = shown[["cell", "seeds", "accuracy", "low", "high", "params", "tokens_per_s", "seconds"]]
    print(brief.to_string(index=False, float_format=lambda v: f"{v:,.3f}"))
    print(f"tables and figures: {REPORTS / 'local'}")
