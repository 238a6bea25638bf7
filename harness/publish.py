"""Published records to README.md and reports/; local runs to the terminal and reports/local/."""

from __future__ import annotations

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from harness.bad_input import refuse
from harness.columns import grid, markdown_table
from harness.compare import Reference, read_peft, references
from harness.page import page
from harness.plots import Losses, figures
from harness.rates import RATE_COLUMNS, rate_rows
from harness.report import summary_lines
from harness.runs import PUBLISHED, read_record
from harness.schema import ROOT, under_root
from harness.sections import roles
from harness.table import markdown, pair_rows, read_records, rows, with_table

README, REPORTS = ROOT / "README.md", ROOT / "reports"
CAPABILITIES = REPORTS / "capabilities.json"
REFERENCE = REPORTS / "reference"
KEPT = ("result.json", "config.yaml", "metrics.jsonl")  # small and enough for every table and plot
DIGITS = "%.10g"  # the last digits of a sum may differ between processors
LOSS_POINTS = 60  # per curve: steps are averaged in as many groups
MORE = "Every column, the learning rates and the figures: [reports/results.md](reports/results.md), reports/index.html."


def build(published: Path = PUBLISHED) -> tuple[dict[Path, str], list[str]]:
    """Path → text of everything that published records give, and what was skipped; writes nothing."""
    found = read_records([published])
    frame = rows(found.records)
    table = markdown(frame, capabilities()) + ("" if frame.empty else f"\n\n{MORE}")
    texts = {README: with_example(with_table(README.read_text(), table), found.records)}
    texts |= {REPORTS / name: text for name, text in files(frame, found.records, [published]).items()}
    return texts, found.skipped


# -- reports/ ----------------------------------------------------------------------------------------------------------
def files(frame: pd.DataFrame, records: list[dict[str, Any]], folders: list[Path]) -> dict[str, str]:
    """Name → text of the long tables, the page and the figures. folders: where the rows' metrics.jsonl lie."""
    able, published = capabilities(), references(REFERENCE)
    drawn = {
        str(title): figures(str(title), part.reset_index(drop=True), losses(part, folders), _baseline(part))
        for title, part in (() if frame.empty else frame.groupby("section", sort=False))
    }
    made = {
        "results.csv": frame.to_csv(index=False, float_format=DIGITS),
        "pairs.csv": pair_rows(records).to_csv(index=False, float_format=DIGITS),
        "results.md": _markdown(frame, drawn, published),
        "index.html": page(frame, able, drawn, published),
    }
    return made | {_plot(title, name): svg for title, of in drawn.items() for name, svg in of.items()}


def _plot(title: str, name: str) -> str:
    return f"plots/{re.sub(r'[^A-Za-z0-9.]+', '-', title).strip('-')}-{name}.svg"


def _baseline(part: pd.DataFrame) -> str | None:
    """The unquantized baseline's cell, to be drawn behind the others."""
    same = part[part["chosen"] & (part["variant"] == roles().baseline) & (part["quantization"] == "none")]
    return None if same.empty else str(same.iloc[0]["cell"])


def losses(part: pd.DataFrame, folders: list[Path]) -> Losses:
    """Loss curves of the first seed of every chosen row whose metrics.jsonl can be read."""
    found: Losses = {}
    for _, row in part[part["chosen"] & part["run"].notna()].iterrows():
        file = next((f for folder in folders if (f := folder / row["run"] / "metrics.jsonl").exists()), None)
        if file is None:
            continue
        try:
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            points = [(int(line["step"]), float(line["loss"])) for line in lines]
        except (ValueError, KeyError, TypeError):
            continue
        parts = min(LOSS_POINTS, len(points))
        cuts = [n * len(points) // parts for n in range(parts + 1)] if parts else []
        groups = [points[a:b] for a, b in pairwise(cuts)]
        if groups:
            found[row["cell"]] = [(g[-1][0], sum(loss for _, loss in g) / len(g)) for g in groups]
    return found


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
        parts += [f"**{r.title}** (theirs, not run here)", "\n".join(grid(r.head, r.body))]
        parts.append(f"{r.note} Source: <{r.source}>.")
    return "\n\n".join(parts) + "\n"


# -- README ------------------------------------------------------------------------------------------------------------
def with_example(readme: str, records: list[dict[str, Any]]) -> str:
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


def capabilities() -> dict[str, dict[str, str]]:
    """What the capability probe wrote: variant → quantization → yes, or the reason why not."""
    return json.loads(CAPABILITIES.read_text())["variants"] if CAPABILITIES.exists() else {}


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
    local = read_records([base])
    theirs, skipped = read_peft(Path(compare)) if compare else (pd.DataFrame(), [])
    for line in local.skipped + skipped:
        print(f"not counted: {line}")
    by_id = {r["run_id"]: r for r in [*read_records([PUBLISHED]).records, *local.records]}  # a local record wins
    records = list(by_id.values())
    shown = pd.concat([f for f in (rows(records), theirs) if not f.empty] or [pd.DataFrame()], ignore_index=True)
    if shown.empty:
        print("no finished runs yet")
        return
    for name, text in files(shown, records, [base, PUBLISHED]).items():
        path = REPORTS / "local" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    brief = shown[["cell", "seeds", "accuracy", "low", "high", "params", "tokens_per_s", "seconds"]]
    print(brief.to_string(index=False, float_format=lambda v: f"{v:,.3f}"))
    print(f"tables and figures: {REPORTS / 'local'}")
