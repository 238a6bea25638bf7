"""reports/index.html: tables that sort by a click and all figures, in one file that needs no network."""

from __future__ import annotations

import re
from html import escape
from typing import Any

import pandas as pd

from harness.report.columns import Capabilities, Column, columns, known, paper
from harness.report.learning_rates import RATE_COLUMNS, rate_rows
from harness.report.notes import notes
from harness.report.others import Reference
from harness.report.plots import inline

CAPTIONS = {
    "accuracy": "Accuracy against trained parameters. Bars: 95 % intervals. Dashed: the Pareto front.",
    "learning_rate": "Validation accuracy against the learning rate.",
    "loss": "Training loss of one seed, averaged over neighbouring steps.",
    "cost": "Peak memory, speed and attach time.",
}
STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --faint: #666; --line: #d8d8d8; --band: #f5f5f5;
  --link: #0060a8 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #16181b; --faint: #a0a0a0; --line: #3a3d42;
  --band: #1f2226; --link: #7cc0ff } }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: var(--ink); background: var(--paper);
  margin: 2rem auto; max-width: 76rem; padding: 0 1rem }
h1, h2, h3 { line-height: 1.2; margin: 2rem 0 .6rem } h2 { border-top: 1px solid var(--line); padding-top: 1.4rem }
a { color: var(--link) } p { max-width: 60rem } .notes { color: var(--faint); font-size: .85rem }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; width: 100% }
td, th { padding: .35rem .6rem; text-align: right; white-space: nowrap }
td:first-child, th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper) }
th { vertical-align: bottom; border-bottom: 1px solid var(--line); white-space: normal; min-width: 5.5rem }
tbody tr:nth-child(even) td { background: var(--band) }
th button { all: unset; cursor: pointer; font-weight: 600; text-wrap: balance } th button:hover { color: var(--link) }
th button:focus-visible { outline: 2px solid var(--link); outline-offset: 2px }
th[aria-sort=ascending] button::after { content: " ▲" } th[aria-sort=descending] button::after { content: " ▼" }
figure { margin: 1.6rem 0 } figcaption { color: var(--faint); font-size: .85rem }
svg { width: 100%; max-width: 62rem; height: auto; color: var(--ink) } svg text { fill: currentColor }
"""
SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const th = button.parentElement, row = th.parentElement, body = row.closest("table").tBodies[0];
  const column = [...row.cells].indexOf(th), rising = th.getAttribute("aria-sort") === "descending";
  for (const other of row.cells) other.removeAttribute("aria-sort");
  th.setAttribute("aria-sort", rising ? "ascending" : "descending");
  const key = tr => tr.cells[column].dataset.key;
  const order = (a, b) => isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
  const rows = [...body.rows], full = rows.filter(tr => key(tr) !== ""), empty = rows.filter(tr => key(tr) === "");
  full.sort((a, b) => (rising ? 1 : -1) * order(key(a), key(b)));
  body.append(...full, ...empty);
});
"""
# Nothing is fetched, whatever a record's texts contain.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def page(frame: pd.DataFrame, able: Capabilities, drawn: dict[str, dict[str, str]], published: list[Reference]) -> str:
    """The whole page. drawn: section → figure → SVG."""
    parts = [_section(str(t), p, able, drawn.get(str(t), {})) for t, p in _sections(frame)]
    parts += [_reference(r) for r in published]
    if frame.empty:
        parts.insert(0, "<p>No published runs yet.</p>")
    body = "\n".join(parts)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>hookbench: results</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
<h1>Which adapter should I train?</h1>
<p>Written by <code>python cost_report.py</code> from the records of runs. Click a column head to sort.</p>
{body}
<script>{SCRIPT}</script>
</html>
"""


def _sections(frame: pd.DataFrame) -> list[tuple[Any, pd.DataFrame]]:
    return [] if frame.empty else list(frame.groupby("section", sort=False))


def _section(title: str, part: pd.DataFrame, able: Capabilities, drawn: dict[str, str]) -> str:
    shown = part[part["chosen"]]
    used = columns(shown, able)
    lines = [f"<h2>{escape(title)}</h2>", table([c.head for c in used], [_cells(r, used) for _, r in shown.iterrows()])]
    lines.append(f'<p class="notes">{_prose(" ".join(notes(part, able)))}</p>')
    for name, svg in drawn.items():
        unique = re.sub(r"\W+", "-", f"{title}-{name}")
        caption = escape(CAPTIONS[name])
        lines.append(f'<figure role="img" aria-label="{caption}">{inline(svg, unique)}')
        lines.append(f"<figcaption>{caption}</figcaption></figure>")
    if rates := rate_rows(part):
        body = [[(escape(text), key) for text, key in row] for row in rates]
        lines += ["<h3>Learning rates</h3>", table(RATE_COLUMNS, body)]
    return "\n".join(lines)


def _cells(row: Any, used: list[Column]) -> list[tuple[str, Any]]:
    cells = []
    for n, column in enumerate(used):
        text = escape(column.text(row))
        text = f"<strong>{text}</strong>" if column.bold(row) else text
        if n == 0 and (address := paper(row)):
            text = re.sub(r"^(\S+)", rf'<a href="{escape(address)}">\1</a>', text)
        cells.append((text, column.key(row)))
    return cells


def table(head: list[str], body: list[list[tuple[str, Any]]]) -> str:
    """A sortable table of (HTML, sort key) cells; a key of None sorts last either way."""
    heads = "".join(f'<th scope="col"><button type="button">{escape(h)}</button></th>' for h in head)
    lines = ["".join(f'<td data-key="{_key(key)}">{text}</td>' for text, key in row) for row in body]
    rows = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'


def _key(value: Any) -> str:
    if not known(value):
        return ""
    return escape(value) if isinstance(value, str) else f"{float(value):.10g}"


def _reference(r: Reference) -> str:
    body = [[(escape(text), _sortable(text)) for text in row] for row in r.body]
    lines = [f"<h2>{escape(r.title)}</h2>", table(r.head, body)]
    return "\n".join([*lines, f'<p class="notes">{escape(r.note)} Source: <a href="{r.source}">{r.source}</a>.</p>'])


def _sortable(text: str) -> float | str:
    """A published cell's number (`4.59M` is 4,590,000), or its text."""
    match = re.match(r"^-?[\d,]*\.?\d+(?:e-?\d+)?(?=([KM]?)(?:$| \[))", text)
    return float(match[0].replace(",", "")) * {"K": 1e3, "M": 1e6}.get(match[1], 1.0) if match else text


def _prose(text: str) -> str:
    """Notes as HTML: backquotes are code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text, quote=False))
