"""Records to the results table: one row per variant and setting, seeds taken together."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import adapters as ad
from harness.evaluation import from_bits
from harness.report import peak, wilson
from harness.stats import crossed_bootstrap

BEGIN, END = "<!-- results:begin (python cost_report.py writes this) -->", "<!-- results:end -->"
OUTCOMES = ("done", "diverged", "failed")


@dataclass(frozen=True)
class Found:
    """Records read from a folder, and a sentence for everything that was not one."""

    records: list[dict[str, Any]]
    skipped: list[str]


def read_records(folders: Iterable[Path]) -> Found:
    """Every `<folder>/<id>/result.json`. Half-written, foreign and unreadable ones are named, never counted."""
    records, skipped = [], []
    for path in sorted(p for folder in folders if folder.is_dir() for p in folder.iterdir()):
        if path.name.startswith(".") or path.name == "published" or not path.is_dir():
            continue
        try:
            record = json.loads((path / "result.json").read_text())
            if record["run_id"] != path.name:
                raise ValueError(f"its run_id is {record['run_id']}")
            if record["schema_version"] != 1 or record["status"] not in (*OUTCOMES, "interrupted"):
                raise ValueError("its schema is not this version's")
            if record["status"] == "interrupted":
                raise ValueError("interrupted; the same command goes on with it")
            if record["status"] == "done":
                _ = record["test"]["correct_bits"], record["memory"], record["health"]
            records.append(record)
        except FileNotFoundError:
            skipped.append(f"{path.name}: no result.json (unfinished)")
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            skipped.append(f"{path.name}: {type(error).__name__} {error}")
    return Found(records, skipped)


def cells(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Run id without its seed → the runs that differ in nothing else."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(re.sub(r"__seed\d+", "", record["run_id"]), []).append(record)
    return groups


def rows(records: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per cell, best first within a benchmark and model."""
    made = [_row(name, runs) for name, runs in cells(records).items()]
    if not made:
        return pd.DataFrame()
    frame = pd.DataFrame(made)
    return frame.sort_values(["setting", "accuracy", "cell"], ascending=[True, False, True], ignore_index=True)


def _row(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    done = [r for r in runs if r["status"] == "done"]
    first = (done or runs)[0]
    row: dict[str, Any] = {
        "setting": f"{first['benchmark']}-{first['model']}",
        "cell": name,
        "variant": first["variant"],
        "rank": first["rank"],
        "lora_rank": first["lora_rank"],
        "lr": first["lr"],
        "quantization": first["quantization"],
        "seeds": len(done),
        "diverged": sum(r["status"] == "diverged" for r in runs),
        "failed": sum(r["status"] == "failed" for r in runs),
        "params": first["trainable_params"],
    }
    if not done:
        return row
    tests = [r["test"] for r in done]
    right = np.array([from_bits(t["correct_bits"], t["total"]) for t in tests])
    same = len({t["questions_hash"] for t in tests}) == 1
    if not same:
        raise SystemExit(f"{name}: seeds answered different questions. Remove the odd record.")
    low, high = wilson(tests[0]["correct"], tests[0]["total"]) if len(done) == 1 else crossed_bootstrap(right)
    return row | {
        "accuracy": float(right.mean()),
        "low": low,
        "high": high,
        "flexible": float(np.mean([t["flexible_accuracy"] for t in tests])),
        "valid": float(np.mean([r["valid"]["accuracy"] for r in done])),
        "questions": tests[0]["total"],
        "truncated": float(np.mean([t["truncated"] / t["total"] for t in tests])),
        "file_bytes": first["adapter_file_bytes"],
        "memory": (peak(first["memory"], "eval") or ("", 0.0))[0],
        "peak_train_gb": _median([p[1] for r in done if (p := peak(r["memory"], "train"))]),
        "peak_eval_gb": _median([p[1] for r in done if (p := peak(r["memory"], "eval"))]),
        "tokens_per_s": _median([r["train"]["tokens_per_s"] for r in done if "train" in r]),
        "seconds": _median([r["seconds"] for r in done]),
        "attach_seconds": _median([r["cost"]["attach_seconds"] for r in done]),
        "added_macs_per_token": done[0]["cost"]["added_macs_per_token"],
    }


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None


def markdown(frame: pd.DataFrame, capabilities: dict[str, dict[str, str]]) -> str:
    """The short table, one per benchmark and model."""
    if frame.empty:
        return "No published runs yet."
    return "\n\n".join(_section(str(name), part, capabilities) for name, part in frame.groupby("setting"))


def _section(name: str, part: pd.DataFrame, capabilities: dict[str, dict[str, str]]) -> str:
    memory = next((m for m in part["memory"].dropna() if m), "RSS")
    head = [
        "variant",
        "8-bit",
        "4-bit",
        "test accuracy, % [95 % interval]",
        "seeds",
        "lr",
        "trained parameters",
        "file, kB",
    ]
    head += [f"peak {memory} train / eval, GB", "tokens/s", "run, s"]
    lines = [f"**{name}**", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cells(row, capabilities)) + " |" for _, row in part.iterrows()]
    return "\n".join([*lines, "", *_footnotes(part)])


def _cells(row: Any, capabilities: dict[str, dict[str, str]]) -> list[str]:
    able = capabilities.get(row["variant"], {})
    label = _linked(row["variant"]) + (f" {row['quantization']}" if row["quantization"] != "none" else "")
    outcome = "".join(f" ({row[k]} {k})" for k in ("diverged", "failed") if row[k])
    columns = [label + outcome, able.get("8bit", "?"), able.get("4bit", "?")]
    if not row["seeds"]:
        return [*columns, "–", "0", _text(row["lr"], "g"), f"{row['params']:,}", "–", "–", "–", "–"]
    accuracy = f"{100 * row['accuracy']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    peaks = f"{_text(row['peak_train_gb'], '.2f')} / {_text(row['peak_eval_gb'], '.2f')}"
    return [
        *columns,
        accuracy,
        str(row["seeds"]),
        _text(row["lr"], "g"),
        f"{row['params']:,}",
        f"{row['file_bytes'] / 1000:,.1f}",
        peaks,
        _text(row["tokens_per_s"], ",.0f"),
        f"{row['seconds']:.0f}",
    ]


def _linked(variant: str) -> str:
    kind = ad.VARIANTS.get(variant)
    return f"[{variant}](https://arxiv.org/abs/{kind.paper})" if kind and kind.paper else variant


def _text(value: Any, form: str) -> str:
    return "–" if value is None or pd.isna(value) else format(value, form)


def _footnotes(part: pd.DataFrame) -> list[str]:
    done = part[part["seeds"] > 0]
    if done.empty:
        return []
    questions = ", ".join(f"{int(n):,}" for n in sorted(done["questions"].unique()))
    notes = [
        f"{questions} test questions. One seed: Wilson's interval, which leaves out the spread between seeds; several: "
        "bootstrap crossed over questions and seeds. Rows whose intervals overlap are not ranked by this table."
    ]
    untrained = done[done["lr"].isna()]
    notes += [
        f"Untrained, `{r['variant']}` answers {100 * r['flexible']:.1f} % when any last number counts "
        f"(flexible), {100 * r['accuracy']:.1f} % by marker."
        for _, r in untrained.iterrows()
    ]
    return [" ".join(notes)]


def with_table(readme: str, table: str) -> str:
    """README text with the part between the markers replaced. Raises SystemExit where the markers are missing."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise SystemExit(f"README.md: the markers are missing; expected {BEGIN} and {END} once each.")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"
