"""Markdown: tables, and the marked blocks of a page that are written from records."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from harness.errors import refuse
from harness.records.record import Record
from harness.report.columns import Capabilities, Column, Row, columns, paper
from harness.report.notes import notes
from harness.report.summary import summary_lines


# -- tables ------------------------------------------------------------------------------------------------------------
def markdown_table(title: str, part: pd.DataFrame, able: Capabilities, *, short: bool) -> str:
    """One section: each variant at its chosen learning rate, and the notes that its figures need."""
    shown = part[part["chosen"]]
    used = [c for c in columns(shown, able) if c.short or not short]
    lines = [f"**{title}**", "", *grid([c.head for c in used], [_cells(row, used) for _, row in shown.iterrows()])]
    return "\n".join([*lines, "", " ".join(notes(part, able))]).rstrip()


def grid(head: list[str], body: list[list[str]]) -> list[str]:
    """A Markdown table's lines."""
    rows = [head, ["---"] * len(head), *([text.replace("|", "\\|") for text in row] for row in body)]
    return [" ".join(("| " + " | ".join(row) + " |").split()) for row in rows]


def _cells(row: Row, used: list[Column]) -> list[str]:
    texts = [re.sub(r"<(?=[A-Za-z/!?])", "&lt;", c.text(row)).replace("](", "]\\(") for c in used]  # no HTML, no links
    texts = [f"**{text}**" if c.bold(row) else text for c, text in zip(used, texts, strict=True)]
    if address := paper(row):
        texts[0] = re.sub(r"^(\S+)", rf"[\1]({address})", texts[0])
    return texts


def fill_block(text: str, name: str, content: str, page: str) -> str:
    """`text` with `content` between its marks `<!-- {name}:begin … -->` and `<!-- {name}:end -->`.

    Raises SystemExit, naming `page`, unless there is exactly one such pair.
    """
    content = content.replace("<!--", "&lt;!--")  # no mark of its own
    parts = re.split(rf"(<!-- {name}:begin .*-->\n|<!-- {name}:end -->)", text)
    if len(parts) != 5 or not parts[1].endswith("\n") or parts[3].endswith("\n"):
        marks = f"<!-- {name}:begin … --> and <!-- {name}:end -->"
        raise refuse(page, f"no single block {name}", expected=f"{marks}, once each", remedy="Restore these two lines.")
    return "".join([*parts[:2], content, "\n", *parts[3:]])


# -- README ------------------------------------------------------------------------------------------------------------
def readme(text: str, table: str, records: list[Record]) -> str:
    """README's text with the results table, and the last lines of the run that its example's mark names."""
    text = fill_block(text, "results", table, "README.md")
    named = re.search(r"<!-- example:begin (\S+)", text)
    record = next((r for r in records if named and r["run_id"] == named[1]), None)
    lines = ["(this run is not published yet)"]
    if record is not None:
        lines = [record["run_id"], *summary_lines(record, Path("runs") / record["run_id"])]
    return fill_block(text, "example", "".join(f"\n    {line}" for line in lines) + "\n", "README.md")


def markdown(frame: pd.DataFrame, capabilities: Capabilities) -> str:
    """The short table, one per section; each variant at its chosen learning rate."""
    if frame.empty:
        return "No published runs yet."
    parts = [(str(title), part) for title, part in frame.groupby("section", sort=False)]
    return "\n\n".join(markdown_table(title, part, capabilities, short=True) for title, part in parts)
