"""Markdown: tables, and the marked blocks of a page that are generated."""

from __future__ import annotations

import re

import pandas as pd

from harness.errors import refuse
from harness.report.columns import Capabilities, Column, columns, row_cells
from harness.report.notes import notes


def markdown_table(title: str, part: pd.DataFrame, able: Capabilities) -> str:
    """One section with every column: each variant at its chosen learning rate, and the notes that its figures need."""
    shown = part[part["chosen"]]
    return f"**{title}**\n\n{table(shown, columns(shown, able))}\n\n{' '.join(notes(part, able))}".rstrip()


def table(shown: pd.DataFrame, used: list[Column]) -> str:
    body = [row_cells(row, used, _safe, "**{}**", r"[\1]({})") for _, row in shown.iterrows()]
    return "\n".join(grid([c.head for c in used], body))


def grid(head: list[str], body: list[list[str]]) -> list[str]:
    """A Markdown table's lines."""
    rows = [head, ["---"] * len(head), *([text.replace("|", "\\|") for text in row] for row in body)]
    return [" ".join(("| " + " | ".join(row) + " |").split()) for row in rows]


def _safe(text: str) -> str:
    """Neither HTML nor a link."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text).replace("](", "]\\(")


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
