"""From records to the text of every generated file."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pandas as pd

from harness.paths import PUBLISHED, ROOT
from harness.records.record import LARGEST, Record
from harness.records.store import read_records
from harness.report.learning_rates import RATE_COLUMNS, rate_rows
from harness.report.markdown import grid, markdown, markdown_table, readme
from harness.report.others import Reference, references
from harness.report.page import page
from harness.report.plots import Losses, figures
from harness.report.sections import roles
from harness.report.table import pair_rows, rows

README, REPORTS = ROOT / "README.md", ROOT / "reports"
CAPABILITIES = REPORTS / "capabilities.json"
REFERENCE = REPORTS / "reference"
DIGITS = "%.10g"  # the last digits of a sum may differ between processors
LOSS_POINTS = 60  # per curve: steps are averaged in as many groups
MORE = "Every column, the learning rates and the figures: [reports/results.md](reports/results.md), reports/index.html."


def build(published: Path = PUBLISHED) -> tuple[dict[Path, str], list[str]]:
    """Path → text of everything that published records give, and what was skipped; writes nothing."""
    read = read_records([published])
    frame = rows(read.records)
    table = markdown(frame, capabilities()) + ("" if frame.empty else f"\n\n{MORE}")
    texts = {README: readme(README.read_text(encoding="utf-8"), table, read.records)}
    texts |= {REPORTS / name: text for name, text in files(frame, read.records, [published]).items()}
    return texts, read.skipped


# -- reports/ ----------------------------------------------------------------------------------------------------------
def files(frame: pd.DataFrame, records: list[Record], folders: list[Path]) -> dict[str, str]:
    """Name → text of the long tables, the page and the figures. folders: where the rows' metrics.jsonl lie."""
    able, published = capabilities(), references(REFERENCE)
    drawn = {
        str(title): figures(str(title), part.reset_index(drop=True), losses(part, folders), _baseline(part))
        for title, part in (() if frame.empty else frame.groupby("section", sort=False))
    }
    texts = {
        "results.csv": _csv(frame),
        "pairs.csv": _csv(pair_rows(records)),
        "results.md": _markdown(frame, drawn, published),
        "index.html": page(frame, able, drawn, published),
    }
    return texts | {_plot(title, name): svg for title, of in drawn.items() for name, svg in of.items()}


def _csv(frame: pd.DataFrame) -> str:
    """Texts that a spreadsheet would take for a formula get an apostrophe in front."""
    safe = frame.map(lambda v: f"'{v}" if isinstance(v, str) and v[:1] in tuple("=+-@\t\r") else v)
    return safe.to_csv(index=False, float_format=DIGITS)


def _plot(title: str, name: str) -> str:
    return f"plots/{re.sub(r'[^A-Za-z0-9.]+', '-', title).strip('-')}-{name}.svg"


def _baseline(part: pd.DataFrame) -> str | None:
    """The unquantized baseline's cell, to be drawn behind the others."""
    same = part[part["chosen"] & (part["variant"] == roles().baseline) & (part["quantization"] == "none")]
    return None if same.empty else str(same.iloc[0]["cell"])


def losses(part: pd.DataFrame, folders: list[Path]) -> Losses:
    """Loss curves of the first seed of every chosen row whose metrics.jsonl can be read."""
    out: Losses = {}
    for _, row in part[part["chosen"] & part["run"].notna()].iterrows():
        file = next((f for folder in folders if (f := folder / row["run"] / "metrics.jsonl").is_file()), None)
        if file is None:
            continue
        try:
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            points = [(int(line["step"]), float(line["loss"])) for line in lines if abs(line["loss"]) < LARGEST]
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
        parts = min(LOSS_POINTS, len(points))
        cuts = [n * len(points) // parts for n in range(parts + 1)] if parts else []
        groups = [points[a:b] for a, b in pairwise(cuts)]
        if groups:
            out[row["cell"]] = [(g[-1][0], sum(loss for _, loss in g) / len(g)) for g in groups]
    return out


def _markdown(frame: pd.DataFrame, drawn: dict[str, dict[str, str]], published: list[Reference]) -> str:
    """reports/results.md: every column, learning rates, figures, and what others published."""
    parts = ["# Results", "Written by `python cost_report.py` from the records of runs."]
    if frame.empty:
        parts.append("No published runs yet.")
    for title, part in () if frame.empty else frame.groupby("section", sort=False):
        parts.append(markdown_table(str(title), part, capabilities(), short=False))
        if rates := rate_rows(part):
            body = [[text for text, _ in row] for row in rates]
            parts += ["Learning rates, on validation:", "\n".join(grid(RATE_COLUMNS, body))]
        parts += [f"![{name}]({_plot(str(title), name)})" for name in drawn[str(title)]]
    for r in published:
        parts += [f"**{r.title}** (not run here)", "\n".join(grid(r.head, r.body))]
        parts.append(f"{r.note} Source: <{r.source}>.")
    return "\n\n".join(parts) + "\n"


def capabilities() -> dict[str, dict[str, str]]:
    """What the capability probe wrote: variant → quantization → yes, or the reason why not."""
    return json.loads(CAPABILITIES.read_text())["variants"] if CAPABILITIES.exists() else {}
