"""The page's data: a point for every row, with the figures that page.js plots, filters and draws curves from."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from harness.records.record import LARGEST
from harness.report.columns import Row, full_name, known
from harness.report.names import family, roles

Launches = dict[str, dict[str, Any]]  # variant → what tools.benches.launches counted
Losses = dict[str, list[tuple[int, float]]]  # cell → (step, loss) of its first seed, a few dozen points
Point = dict[str, Any]
SHARES = ("accuracy", "low", "high", "seed_low", "seed_high")  # percent
# Then params, file (bytes), peak (GB), launches and forgetting (nats per token); None where not known. reference: a
# line across the plot instead of a point.
KEYS: tuple[str, ...] = ("id", "name", "family", "quantization", "seeds", "reference", "baseline", *SHARES)
KEYS += ("params", "file", "peak", "launches", "forgetting")
GROUPS = 60  # points of a loss curve: steps are averaged in as many groups


def point(variant: str, **figures: Any) -> Point:
    """A point of the plot; what is not given is not known."""
    return dict.fromkeys(KEYS) | {"family": family(variant)} | figures


def row_points(part: pd.DataFrame, losses: Losses, counted: Launches) -> list[Point]:
    """One section's chosen rows that have an accuracy."""
    shown = part[part["chosen"] & part["accuracy"].notna()]
    return [_row_point(row, part, losses, counted.get(row["variant"], {})) for _, row in shown.iterrows()]


def _row_point(row: Row, part: pd.DataFrame, losses: Losses, counted: dict[str, Any]) -> Point:
    """Also `rates` (learning rate, validation accuracy, whether chosen) and `loss`, where there are some."""
    role = roles()
    peak = counted.get("train_peak_bytes", math.nan) / 1e9
    if "GPU" in str(row["memory"]) and known(row["peak_train_gb"]):  # a resident set hardly tells adapters apart
        peak = row["peak_train_gb"]
    out = point(
        row["variant"],
        id=row["cell"],
        name=full_name(row),
        quantization=row["quantization"],
        seeds=int(row["seeds"]),
        reference=row["variant"] in (role.floor, role.ceiling),
        baseline=bool(row["is_baseline"]),
        **{name: _figure(row[name], 100.0) for name in SHARES},
        params=_figure(row["params"]),
        file=_figure(row["file_bytes"]),
        peak=_figure(peak),
        launches=_figure(counted.get("train_launches")),
        forgetting=_figure(row["forgetting"]),
    )
    tried = part[(part["curve"] == row["cell"]) & part["lr"].notna() & part["valid_common"].notna()].sort_values("lr")
    if len(tried):
        out["rates"] = [(r["lr"], round(100 * r["valid_common"], 2), bool(r["chosen"])) for _, r in tried.iterrows()]
    if row["cell"] in losses:
        out["loss"] = [(step, round(loss, 4)) for step, loss in losses[row["cell"]]]
    return out


def _figure(value: Any, scale: float = 1.0) -> float | None:
    return float(f"{value * scale:.6g}") if known(value) else None


def launches(file: Path) -> Launches:
    """By variant, from the simulated section of reports/bench.json; empty where it is not there."""
    sections = json.loads(file.read_text()) if file.exists() else {}
    return {row["name"]: row for row in sections.get("simulated", {"rows": []})["rows"]}


def losses(part: pd.DataFrame, folders: list[Path]) -> Losses:
    """Loss curves of the chosen rows whose metrics.jsonl can be read."""
    out: Losses = {}
    for _, row in part[part["chosen"] & part["run"].notna()].iterrows():
        file = next((f for folder in folders if (f := folder / row["run"] / "metrics.jsonl").is_file()), None)
        if file is None:
            continue
        try:
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            points = [(int(line["step"]), float(line["loss"])) for line in lines if abs(line["loss"]) < LARGEST]
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
        count = min(GROUPS, len(points))
        groups = [points[a:b] for a, b in pairwise(n * len(points) // max(count, 1) for n in range(count + 1))]
        if groups:
            out[row["cell"]] = [(g[-1][0], sum(loss for _, loss in g) / len(g)) for g in groups]
    return out
