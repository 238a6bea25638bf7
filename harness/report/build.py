"""From records to the text of every generated file."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from harness.hashing import sha256
from harness.paths import PUBLISHED, ROOT
from harness.records.record import Record
from harness.records.store import read_records
from harness.report.columns import Capabilities
from harness.report.figure import accuracy_figure
from harness.report.learning_rates import RATE_COLUMNS, rate_rows
from harness.report.markdown import grid, markdown_table
from harness.report.notes import LEGEND
from harness.report.others import Reference, references
from harness.report.page import page
from harness.report.points import launches, losses, row_points
from harness.report.readme import readme
from harness.report.table import by_section, pair_rows, rows

README, REPORTS = ROOT / "README.md", ROOT / "reports"
CAPABILITIES = REPORTS / "capabilities.json"
REFERENCE, SIMULATED = REPORTS / "reference", REPORTS / "bench.json"
DIGITS = "%.10g"  # the last digits of a sum may differ between processors
NOT_COMPARABLE = "other model, prompts and scorer, published by others and not run here."


def build(published: Path = PUBLISHED) -> tuple[dict[Path, str], list[str]]:
    """Path → text of everything that published records give, and what was skipped; writes nothing."""
    read = read_records([published])
    frame = rows(read.records)
    written = files(frame, read.records, [published])
    drawn = {title: f"reports/{name}" for title in by_section(frame) if (name := _plot(title)) in written}
    texts = {README: readme(README.read_text(encoding="utf-8"), frame, read.records, drawn)}
    return texts | {REPORTS / name: text for name, text in written.items()}, read.skipped


# -- reports/ ----------------------------------------------------------------------------------------------------------
def files(frame: pd.DataFrame, records: list[Record], folders: list[Path]) -> dict[str, str]:
    """Name → text of the long tables, the page and the figures. folders: where the rows' metrics.jsonl lie."""
    able, published, counted = capabilities(), references(REFERENCE), launches(SIMULATED)
    parts = by_section(frame)
    place = {cell: n for n, part in enumerate(parts.values()) for cell in part.loc[part["is_baseline"], "cell"]}
    sets = []
    for title, part in parts.items():
        base = next((place[cell] for cell in (*part["baseline"], *part["cell"]) if cell in place), None)
        points = row_points(part, losses(part, folders), counted)
        sets.append({"title": title, "note": "", "base": base, "points": points})
    sets += [{"title": r.title, "note": f"{r.title}: {NOT_COMPARABLE}", "points": r.points} for r in published]
    figures = {_plot(title): svg for title, part in parts.items() if (svg := accuracy_figure(title, part))}
    return figures | {
        "results.csv": _csv(frame),
        "pairs.csv": _csv(pair_rows(records)),
        "results.md": _markdown(parts, figures.keys(), able, published),
        "index.html": page(parts, able, sets, published),
    }


def _plot(title: str) -> str:
    name = re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-")
    short = name if len(name) <= 120 else f"{name[:110]}-{sha256(title)[:8]}"
    return f"plots/{short}-accuracy.svg"


def _csv(frame: pd.DataFrame) -> str:
    """Texts that a spreadsheet would take for a formula get an apostrophe in front."""
    safe = frame.map(lambda v: f"'{v}" if isinstance(v, str) and v[:1] in tuple("=+-@\t\r") else v)
    return safe.to_csv(index=False, float_format=DIGITS)


def _markdown(
    parts: dict[str, pd.DataFrame], figures: Collection[str], able: Capabilities, published: list[Reference]
) -> str:
    """reports/results.md: every column, learning rates, figures, and what others published."""
    out = ["# Results", "Written by `python cost_report.py` from the records of runs.", LEGEND]
    if not parts:
        out.append("No published runs yet.")
    for title, part in parts.items():
        out.append(markdown_table(title, part, able))
        if rates := rate_rows(part):
            body = [[text for text, _ in row] for row in rates]
            out += ["Learning rates, on validation:", "\n".join(grid(RATE_COLUMNS, body))]
        out += [f"![{title}: accuracy]({_plot(title)})"] * (_plot(title) in figures)
    for r in published:
        out += [f"**{r.title}** (not run here)", "\n".join(grid(r.head, r.body))]
        out.append(f"{r.note} Source: <{r.source}>.")
    return "\n\n".join(out) + "\n"


def capabilities() -> dict[str, dict[str, str]]:
    """What the capability probe wrote: variant → quantization → yes, or the reason why not."""
    return json.loads(CAPABILITIES.read_text())["variants"] if CAPABILITIES.exists() else {}
