"""reports/index.html: one plot with axes and filters to choose from, and tables that sort; one file, no network.

page.html is the frame, page.css the style, page.js draws; the data are one JSON block, and the tables are plain HTML.
"""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from harness.report.columns import Capabilities, Column, Row, columns, known, row_cells
from harness.report.learning_rates import RATE_COLUMNS, rate_rows
from harness.report.notes import LEGEND, notes
from harness.report.others import Reference, numeric

Cells = list[tuple[str, Any]]  # (HTML, sort key) of one row


def page(
    parts: dict[str, pd.DataFrame], able: Capabilities, sets: list[dict[str, Any]], published: list[Reference]
) -> str:
    """The whole page. sets: the plot's data, of the parts and then of the published tables.

    A set has title, note, points, and base: the number of the set with its baseline, null where none is.
    """
    tables = [_section(title, part, able) for title, part in parts.items()] + [_reference(r) for r in published]
    tables.insert(0, f'<p class="notes">{LEGEND}</p>' if parts else "<p>No published runs yet.</p>")
    data = json.dumps(sets, separators=(",", ":")).replace("<", "\\u003c")
    filled = {"DATA": data, "TABLES": "\n".join(tables), "STYLE": _beside("page.css"), "SCRIPT": _beside("page.js")}
    return re.sub(r"\{\{(\w+)\}\}", lambda m: filled[m[1]], _beside("page.html"))


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _section(title: str, part: pd.DataFrame, able: Capabilities) -> str:
    shown = part[part["chosen"]]
    used = columns(shown, able)
    body = {row["cell"]: _cells(row, used) for _, row in shown.iterrows()}
    lines = [f"<section><h2>{escape(title)}</h2>", table([c.head for c in used], list(body.values()), list(body))]
    lines.append(f'<p class="notes">{_prose(" ".join(notes(part, able)))}</p>')
    if rates := rate_rows(part):
        tried = table(RATE_COLUMNS, [[(escape(text), key) for text, key in row] for row in rates])
        lines.append(f"<details><summary>Learning rates</summary>{tried}</details>")
    return "\n".join([*lines, "</section>"])


def _cells(row: Row, used: list[Column]) -> Cells:
    texts = row_cells(row, used, escape, "<strong>{}</strong>", r'<a href="{}">\1</a>')
    return [(text, column.key(row)) for text, column in zip(texts, used, strict=True)]


def table(head: list[str], body: list[Cells], ids: list[str] | None = None) -> str:
    """A sortable table; a key of None sorts last either way. ids: of the plot's points, row by row."""
    heads = "".join(f'<th scope="col"><button type="button">{escape(h)}</button></th>' for h in head)
    marks = [f' data-id="{escape(name)}"' for name in ids] if ids else [""] * len(body)
    lines = ["".join(f'<td data-key="{_key(key)}">{text}</td>' for text, key in row) for row in body]
    rows = "\n".join(f"<tr{mark}>{line}</tr>" for mark, line in zip(marks, lines, strict=True))
    return f'<div class="scroll"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'


def _key(value: Any) -> str:
    if not known(value):
        return ""
    return escape(value) if isinstance(value, str) else f"{float(value):.10g}"


def _reference(r: Reference) -> str:
    body: list[Cells] = [[(escape(t), n if (n := numeric(t)) is not None else t) for t in row] for row in r.body]
    lines = [f"<section><h2>{escape(r.title)}</h2>", table(r.head, body, [point["id"] for point in r.points])]
    source = f'Source: <a href="{r.source}">{r.source}</a>.'
    return "\n".join([*lines, f'<p class="notes">{escape(r.note)} {source}</p></section>'])


def _prose(text: str) -> str:
    """Notes as HTML: backquotes are code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text, quote=False))
