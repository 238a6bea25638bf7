"""Published results of others: PEFT's method_comparison files, and the tables in reports/reference/.

They have sections of their own and are never compared with this project's runs: prompts, scorers and the choice of the
learning rate differ.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from harness.errors import refuse
from harness.records.record import LARGEST, one_line
from harness.report.points import Point, point
from harness.report.stats import wilson
from harness.report.table import COMPARED, MEASURED

QUESTIONS = 1319  # of GSM8K's test set; PEFT's files hold the share, not the count
THEIRS = "PEFT's results (not run here)"


def read_peft(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """Rows like those of harness.report.table.rows from `<folder>/*.json`, and a sentence for every file without one.

    The files are those of github.com/huggingface/peft, method_comparison/MetaMathQA/results. Fields that this does not
    know are ignored. Raises BadInput where there is no such folder or no JSON file in it.
    """
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not files:
        raise refuse("compare", "no JSON files", got=str(folder), expected="a folder of PEFT's result files")
    rows, skipped = [], []
    for file in files:
        try:
            rows.append(_peft_row(file.stem, json.loads(file.read_text(encoding="utf-8"))))
        except (OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            skipped.append(one_line(f"{file.name}: not a result of PEFT's method_comparison ({why})"))
    frame = pd.DataFrame(rows)
    if not frame.empty:
        frame = frame.sort_values(["section", "accuracy", "cell"], ascending=[True, False, True], ignore_index=True)
    return frame, skipped


def _peft_row(name: str, result: dict[str, Any]) -> dict[str, Any]:
    """Raises KeyError, TypeError or ValueError for anything but a result file."""
    run, train = result["run_info"], result["train_info"]
    config, done, variant = run["train_config"], train["status"] == "success", str(run["experiment_name"])
    section = one_line(f"{THEIRS}: {config['model_id']}, {config['max_steps']} steps")
    row: dict[str, Any] = dict.fromkeys([*MEASURED, *COMPARED, "run", "lora_rank", "valid_common"])
    row |= dict.fromkeys(("main", "edge", "is_baseline"), False) | dict.fromkeys(
        ("diverged", "curve_diverged", "valid_seeds"), 0
    )
    row |= dict.fromkeys(("failed", "curve_failed"), int(not done))
    row |= dict.fromkeys(("setting", "section"), section)
    row |= dict.fromkeys(("cell", "curve"), one_line(name)) | {
        "variant": one_line(variant),
        "name": one_line(variant if name == variant.replace("/", "--") else f"{variant} ({name})"),
        "rank": (run.get("peft_config") or {}).get("r"),
        "lr": float(config["optimizer_kwargs"]["lr"]),
        "quantization": "none",
        "seeds": int(done),
        "params": int(train["num_trainable_params"]),
        "chosen": True,
        "rates": 1,
    }
    row |= _peft_figures(train, run, result.get("meta_info") or {}) if done else {}
    if odd := [k for k, v in row.items() if isinstance(v, (int, float)) and not -LARGEST <= v <= LARGEST]:
        raise ValueError(f"{odd[0]} is out of range")
    return row


def _peft_figures(train: dict[str, Any], run: dict[str, Any], meta: dict[str, Any]) -> dict[str, Any]:
    last = train["metrics"][-1]
    share = float(last["test accuracy"])
    if not 0 <= share <= 1:
        raise ValueError(f"test accuracy {share}")
    correct = round(share * QUESTIONS)
    whole = abs(share * QUESTIONS - correct) < 1e-6  # else it is a share of other questions
    low, high = wilson(correct, QUESTIONS) if whole else (None, None)
    peak = train.get("accelerator_memory_max", train.get("cuda_memory_max"))  # renamed in 2025
    tokens, system = last.get("train total tokens"), meta.get("system_info") or {}
    return {
        "accuracy": share,
        "low": low,
        "high": high,
        "questions": QUESTIONS if whole else None,
        "file_bytes": train.get("file_size"),
        "memory": "" if peak is None else "reserved GPU",
        "peak_train_gb": None if peak is None else peak / 1e9,
        "tokens_per_s": tokens / train["train_time"] if tokens and train.get("train_time") else None,
        "seconds": run.get("total_time"),
        "forgetting": last.get("forgetting"),
        "device": one_line(str(system.get("accelerator", system.get("gpu", "unknown device")))),
        "dirty": 0,
        "mixed_code": False,
        "unhealthy": 0,
    }


# -- published tables --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Reference:
    """A table that somebody else published, as text, with Wilson's interval added to its accuracies.

    points: one point of the plot per row.
    """

    title: str
    source: str
    note: str
    head: list[str]
    body: list[list[str]]
    points: list[Point]


def references(folder: Path) -> list[Reference]:
    """The CSV files that `sources.yaml` of this folder names, best first."""
    sources = folder / "sources.yaml"
    if not sources.exists():
        return []
    known = yaml.safe_load(sources.read_text())
    return [_reference(folder / name, about) for name, about in known.items()]


def _reference(file: Path, about: dict[str, Any]) -> Reference:
    frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    share = frame[about["accuracy"]].astype(float) / (100 if about["percent"] else 1)
    others = [c for c in frame.columns if c not in (about["name"], about["accuracy"])]
    order = share.sort_values(ascending=False, kind="stable").index
    body, points = [], []
    for n in order:
        name = frame.loc[n, about["name"]]
        low, high = wilson(round(share[n] * about["questions"]), about["questions"])
        accuracy = f"{100 * share[n]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        body.append([name, accuracy, *(_shown(frame.loc[n, c]) for c in others)])
        axes = {axis: numeric(frame.loc[n, column]) for axis, column in about["axes"].items()}
        short = name.replace(about.get("left_out", "\n"), " ").removesuffix(" default")
        whole = name == about.get("ceiling")
        shares = {k: round(100 * float(v), 2) for k, v in (("accuracy", share[n]), ("low", low), ("high", high))}
        row = point(name, id=name, name=short, quantization="none", seeds=1, reference=whole, baseline=False)
        points.append(row | shares | axes)
    head = [about["name"], "accuracy, % [Wilson, added here]", *(c.replace("_", " ") for c in others)]
    return Reference(about["title"], about["source"], about["note"], head, body, points)


def numeric(text: str) -> float | None:
    """A published cell's number: `4.59M` is 4,590,000, `63.2 [60.6, 65.8]` is 63.2; None for other texts."""
    match = re.match(r"^-?[\d,]*\.?\d+(?:e-?\d+)?(?=([KM]?)(?:$| \[))", text)
    return float(match[0].replace(",", "")) * {"K": 1e3, "M": 1e6}.get(match[1], 1.0) if match else None


def _shown(text: str) -> str:
    """Whole numbers with thousands groups, long fractions to four digits, the rest as published."""
    if text.isdigit():
        return f"{int(text):,}"
    return f"{float(text):.4f}" if text.replace(".", "", 1).isdigit() and len(text) > 8 else text
