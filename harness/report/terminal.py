"""README's short tables as plain text, the benchmarks' own settings first."""

from __future__ import annotations

import pandas as pd

from harness.report.columns import brief_columns
from harness.report.notes import brief_notes
from harness.report.readme import main_sections, reference_line, split


def terminal_tables(frame: pd.DataFrame) -> str:
    """Every section; those with other settings, smoke runs among them, apart and last."""
    mains = dict(main_sections(frame))
    sections = [(str(title), part) for title, part in frame.groupby("section", sort=False)]
    others = [_section(title, part) for title, part in sections if title not in mains]
    apart = ["== Other settings; not comparable with the tables above =="] * bool(others)
    return "\n\n".join([*(_section(*main) for main in mains.items()), *apart, *others]) + "\n"


def _section(title: str, part: pd.DataFrame) -> str:
    ranked, references = split(part)
    used = brief_columns(part[part["chosen"]])
    body = [[column.text(row) + " *" * column.bold(row) for column in used] for _, row in ranked.iterrows()]
    lines = [f"{title}. {reference_line(references)}".strip(), *_aligned([c.head for c in used], body)]
    return "\n".join([*lines, *brief_notes(part, "*")])


def _aligned(head: list[str], body: list[list[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    rows = [
        [row[0].ljust(widths[0]), *(t.rjust(w) for t, w in zip(row[1:], widths[1:], strict=True))]
        for row in (head, *body)
    ]
    return ["  ".join(row) for row in rows]
