"""Published records to README.md and reports/; local runs to the terminal and reports/local/."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from harness.bad_input import refuse
from harness.report import summary_lines
from harness.runs import PUBLISHED, read_record
from harness.schema import ROOT
from harness.table import markdown, read_records, rows, with_table

README, REPORTS = ROOT / "README.md", ROOT / "reports"
CAPABILITIES = REPORTS / "capabilities.json"
KEPT = ("result.json", "config.yaml", "metrics.jsonl")  # small and enough for every table and plot


def build(published: Path = PUBLISHED) -> tuple[dict[Path, str], list[str]]:
    """Path → text of everything that published records give, and what was skipped; writes nothing."""
    found = read_records([published])
    frame = rows(found.records)
    table = markdown(frame, capabilities())
    readme = with_example(with_table(README.read_text(), table), found.records)
    texts = {
        README: readme,
        REPORTS / "results.csv": frame.to_csv(index=False),
        REPORTS / "results.md": f"# Results\n\nWritten by `python cost_report.py` from runs/published/.\n\n{table}\n",
    }
    return texts, found.skipped


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


def rebuild() -> None:
    texts, skipped = build()
    for path, text in texts.items():
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"{path.relative_to(ROOT)} rebuilt")
    for line in skipped:
        print(f"not counted: {line}")


def check() -> None:
    """Raises SystemExit(1) naming every file that differs from what the published records give."""
    texts, skipped = build()
    for line in skipped:
        print(f"not counted: {line}")
    different = [str(p.relative_to(ROOT)) for p, text in texts.items() if not p.exists() or p.read_text() != text]
    if different:
        raise SystemExit(
            f"{', '.join(different)}: not what runs/published gives. Run python cost_report.py and commit."
        )
    print(f"README.md and reports/ agree with {PUBLISHED.relative_to(ROOT)}")


def publish(ids: list[str], runs_dir: str) -> None:
    """Copies the small files of finished runs to runs/published/. Raises BadInput before copying anything."""
    base = Path(runs_dir) if Path(runs_dir).is_absolute() else ROOT / runs_dir
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


def show(runs_dir: str) -> None:
    """Published and local runs together, on the terminal and in reports/local/."""
    base = Path(runs_dir) if Path(runs_dir).is_absolute() else ROOT / runs_dir
    local = read_records([base])
    frames = {"published": rows(read_records([PUBLISHED]).records), "local": rows(local.records)}
    shown = pd.concat([f.assign(kept=name) for name, f in frames.items() if not f.empty] or [pd.DataFrame()])
    for line in local.skipped:
        print(f"not counted: {line}")
    if shown.empty:
        print("no finished runs yet")
        return
    (REPORTS / "local").mkdir(parents=True, exist_ok=True)
    shown.to_csv(REPORTS / "local" / "results.csv", index=False)
    brief = shown[["cell", "kept", "seeds", "accuracy", "low", "high", "params", "tokens_per_s", "seconds"]]
    print(brief.to_string(index=False, float_format=lambda v: f"{v:,.3f}"))
