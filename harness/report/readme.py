"""README's generated blocks: figure, status, example, short results, best of each family; and the terminal's tables."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from harness.records.record import Record
from harness.report.columns import Row, accuracy, brief_columns, label, number
from harness.report.markdown import fill_block, grid, table
from harness.report.names import family, roles, usual_lr
from harness.report.notes import brief_notes, seed_span, span
from harness.report.summary import summary_lines
from harness.report.table import by_section

NOTHING = "No published runs yet."
Parts = list[tuple[str, pd.DataFrame]]  # title and rows of each section


def readme(text: str, frame: pd.DataFrame, records: list[Record], figures: dict[str, str]) -> str:
    """`text` with its blocks filled. figures: title of a section → path of its figure."""
    mains = main_sections(frame)
    title = mains[0][0] if mains else ""
    named = re.search(r"<!-- example:begin (\S+)", text)
    blocks = {
        "figure": f"![{title}: accuracy against trained parameters]({figures[title]})" if title in figures else NOTHING,
        "status": "\n".join(_status(*main) for main in mains) or NOTHING,
        "example": _example(named[1] if named else "", mains, records),
        "results": results(frame),
        "families": "\n\n".join(_families(*main) for main in mains) or NOTHING,
    }
    for name, content in blocks.items():
        text = fill_block(text, name, content, "README.md")
    return text


def main_sections(frame: pd.DataFrame) -> Parts:
    """The benchmarks with their own settings; the first section where there are only others."""
    parts = list(by_section(frame).items())
    return [(title, part) for title, part in parts if part["main"].all()] or parts[:1]


def split(part: pd.DataFrame) -> tuple[pd.DataFrame, list[Row]]:
    """Chosen rows: the adapters, best first; and the untrained and the fully trained model, which are not ranked."""
    shown = part[part["chosen"]]
    reference = shown["variant"].isin([roles().floor, roles().ceiling])
    return shown[~reference], [row for _, row in shown[reference].iterrows()]


def results(frame: pd.DataFrame) -> str:
    """Five columns per benchmark, three lines of notes, and where the rest is."""
    if frame.empty:
        return NOTHING
    out = []
    for title, part in main_sections(frame):
        ranked, references = split(part)
        out.append(f"**{title}.** {reference_line(references)}".strip())
        out += verdict(ranked)
        out += [table(ranked, brief_columns(part[part["chosen"]])), "\\\n".join(brief_notes(part, "Bold"))]
    others = frame["section"].nunique() - len(main_sections(frame))
    more = f", and {others} table{'s' * (others > 1)} with other settings" if others else ""
    out.append(
        f"Every column{more}: [reports/results.md](reports/results.md); with figures to choose from: `make page`."
    )
    return "\n\n".join(out)


def reference_line(references: list[Row]) -> str:
    texts = [f"`{label(row)}` {accuracy(row)} %" for row in references]
    return f"For reference, not ranked: {', '.join(texts)}." if texts else ""


def verdict(ranked: pd.DataFrame) -> list[str]:
    """Which adapters differ clearly from the baseline; nothing where none was compared."""
    base, compared = ranked[ranked["variant"] == roles().baseline], ranked[ranked["difference"].notna()]
    if base.empty or compared.empty:
        return []
    clear, above = compared["clear"].astype(bool), compared["difference"] > 0
    better, same, worse = (
        ", ".join(f"`{label(row)}`" for _, row in compared[rows].iterrows()) or "none"
        for rows in (clear & above, ~clear, clear & ~above)
    )
    against = label(base.iloc[0])
    lines = [f"Clearly better than `{against}`: {better}. Not clearly different: {same}. Clearly worse: {worse}."]
    if smaller := int((compared["params"] < base.iloc[0]["params"]).sum()):
        lines[0] += f" {smaller} of these {len(compared)} train fewer parameters, so size is in the difference too."
    return lines


def _status(title: str, part: pd.DataFrame) -> str:
    """What has been measured of one benchmark."""
    done = part[part["chosen"] & (part["seeds"] > 0)]
    tuned = done[done["lr"].notna()]["variant"].nunique()
    return f"* {title}: {tuned} variants trained, each with {seed_span(done)}; {span(done['questions'], 'question')}."


def _families(title: str, part: pd.DataFrame) -> str:
    """The references, the baseline, and of each family the adapter that is best on validation."""
    role, shown = roles(), part[part["chosen"] & part["valid"].notna()].sort_values("valid", ascending=False)
    fixed = {role.floor: "trains nothing", role.baseline: "baseline", role.ceiling: "trains every weight"}
    best = shown[~shown["variant"].isin(fixed)].groupby(shown["variant"].map(family), sort=False).head(1)
    strata = [str(c) for c in part if str(c).startswith("accuracy_") and part[c].notna().any()]
    body = []
    for _, row in pd.concat([shown[shown["variant"].isin(fixed)], best]).sort_values("accuracy").iterrows():
        what = fixed.get(row["variant"]) or "best of " + family(row["variant"])
        cells = [number(row[c], ".1f", 100.0) for c in strata]
        body.append([what, label(row), accuracy(row), *cells, number(row["params"], ",.0f")])
    head = [
        "best on validation",
        title,
        "accuracy, % [95 %]",
        *(f"{c.removeprefix('accuracy_')}, %" for c in strata),
        "parameters",
    ]
    return "\n".join(grid(head, body))


def _example(variant: str, mains: Parts, records: list[Record]) -> str:
    """The last lines of a run of this variant at its default learning rate, or at the chosen one if there is none."""
    rows = {row["run"]: row for _, part in mains[:1] for _, row in part[part["variant"] == variant].iterrows()}
    runs = [r for r in records if r["run_id"] in rows]
    runs.sort(key=lambda r: (r["lr"] != usual_lr(variant, r["benchmark"]), not rows[r["run_id"]]["chosen"]))
    lines = [runs[0]["run_id"], *summary_lines(runs[0], Path("runs") / runs[0]["run_id"])] if runs else [NOTHING]
    return "".join(f"\n    {line}" for line in lines) + "\n"


# -- the terminal -----------------------------------------------------------------------------------------------------
def terminal_tables(frame: pd.DataFrame) -> str:
    """The short tables as plain text; sections with other settings, smoke runs among them, apart and last."""
    mains = dict(main_sections(frame))
    others = [_section(title, part) for title, part in by_section(frame).items() if title not in mains]
    apart = ["== Other settings; compare within a table =="] * bool(others)
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
    return [
        "  ".join([row[0].ljust(widths[0]), *(t.rjust(w) for t, w in zip(row[1:], widths[1:], strict=True))])
        for row in (head, *body)
    ]
