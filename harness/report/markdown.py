"""Markdown: tables, and the blocks of a page that are written from records."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from harness.errors import refuse
from harness.records.record import Record
from harness.report.columns import Capabilities, Column, Row, columns, paper
from harness.report.notes import notes
from harness.report.summary import summary_lines


# -- Markdown ----------------------------------------------------------------------------------------------------------
def markdown_table(title: str, part: pd.DataFrame, able: Capabilities, *, short: bool) -> str:
    """One section: each variant at its chosen learning rate, and the notes that its figures need."""
    shown = part[part["chosen"]]
    used = [c for c in columns(shown, able) if c.short or not short]
    lines = [f"**{title}**", "", *grid([c.head for c in used], [_cells(row, used) for _, row in shown.iterrows()])]
    return "\n".join([*lines, "", " ".join(notes(part, able))]).rstrip()


def grid(head: list[str], body: list[list[str]]) -> list[str]:
    """A Markdown table's lines."""
    rows = [head, ["---"] * len(head), *([text.replace("|", "\\|") for text in row] for row in body)]
    return ["| " + " | ".join(row) + " |" for row in rows]


def _cells(row: Row, used: list[Column]) -> list[str]:
    texts = [f"**{c.text(row)}**" if c.bold(row) else c.text(row) for c in used]
    if address := paper(row):
        texts[0] = re.sub(r"^(\S+)", rf"[\1]({address})", texts[0])
    return texts


def fill_block(text: str, name: str, content: str, page: str) -> str:
    """`text` with `content` between its marks `<!-- {name}:begin … -->` and `<!-- {name}:end -->`.

    Raises SystemExit, naming `page`, unless there is exactly one such pair.
    """
    parts = re.split(rf"(<!-- {name}:begin .*-->\n|<!-- {name}:end -->)", text)
    if len(parts) != 5 or not parts[1].endswith("\n") or parts[3].endswith("\n"):
        marks = f"<!-- {name}:begin … --> and <!-- {name}:end -->"
        raise refuse(page, f"no single block {name}", expected=f"{marks}, once each", remedy="Restore these two lines.")
    return "".join([*parts[:2], content, "\n", *parts[3:]])


# -- README ------------------------------------------------------------------------------------------------------------
def with_example(readme: str, records: list[Record]) -> str:
    """README text with the last lines of the run that the example's marker names, as that run printed them."""
    match = re.search(r"(<!-- example:begin (\S+) .*?-->\n)(.*?)(<!-- example:end -->)", readme, re.DOTALL)
    if match is None:
        raise SystemExit("README.md: the example's markers are missing; expected <!-- example:begin <run id> … -->.")
    record = next((r for r in records if r["run_id"] == match[2]), None)
    if record is None:
        text = "(this run is not published yet)\n"
    else:
        lines = [record["run_id"], *summary_lines(record, Path("runs") / record["run_id"])]
        text = "\n" + "".join(f"    {line}\n" for line in lines) + "\n"
    return readme[: match.start(3)] + text + readme[match.end(3) :]


BEGIN, END = "<!-- results:begin (python cost_report.py writes this) -->", "<!-- results:end -->"


# -- README ------------------------------------------------------------------------------------------------------------
def markdown(frame: pd.DataFrame, capabilities: dict[str, dict[str, str]]) -> str:
    """The short table, one per section; each variant at its chosen learning rate."""
    if frame.empty:
        return "No published runs yet."
    parts = [(str(title), part) for title, part in frame.groupby("section", sort=False)]
    return "\n\n".join(markdown_table(title, part, capabilities, short=True) for title, part in parts)


def with_table(readme: str, table: str) -> str:
    """README text with the part between the markers replaced. Raises SystemExit where the markers are missing."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(END) < readme.index(BEGIN):
        raise SystemExit(f"README.md: the markers are missing; expected {BEGIN} and {END} once each.")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"
