"""The page's data: a point for every row, with the figures that page.js plots, filters and draws curves from."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pandas as pd

from harness.report.columns import Row, full_name, known
from harness.report.losses import Losses
from harness.report.names import family, roles

Launches = dict[str, dict[str, Any]]  # variant → what tools.benches.launches counted


class Point(TypedDict):
    """Shares are percent, file is bytes, peak is GB, forgetting is nats per token; None where it is not known."""

    id: str
    name: str
    family: str
    quantization: str
    seeds: int
    reference: bool  # a line across the plot instead of a point
    baseline: bool
    accuracy: float
    low: float | None
    high: float | None
    seed_low: float | None
    seed_high: float | None
    params: float | None
    file: float | None
    peak: float | None
    launches: float | None
    forgetting: float | None
    rates: NotRequired[list[tuple[float, float, bool]]]  # learning rate, validation accuracy, whether chosen
    loss: NotRequired[list[tuple[int, float]]]  # step, training loss of the first seed


class Points(TypedDict):
    """One data set of the plot."""

    title: str
    note: str
    points: list[Point]


def row_points(part: pd.DataFrame, losses: Losses, counted: Launches) -> list[Point]:
    """One section's chosen rows that have an accuracy."""
    shown = part[part["chosen"] & part["accuracy"].notna()]
    return [_row_point(row, part, losses, counted.get(row["variant"], {})) for _, row in shown.iterrows()]


def _row_point(row: Row, part: pd.DataFrame, losses: Losses, counted: dict[str, Any]) -> Point:
    role = roles()
    peak = counted.get("train_peak_bytes", math.nan) / 1e9
    if "GPU" in str(row["memory"]) and known(row["peak_train_gb"]):  # a resident set hardly tells adapters apart
        peak = row["peak_train_gb"]
    point: Point = {
        "id": row["cell"],
        "name": full_name(row),
        "family": family(row["variant"]),
        "quantization": row["quantization"],
        "seeds": int(row["seeds"]),
        "reference": row["variant"] in (role.floor, role.ceiling),
        "baseline": row["variant"] == role.baseline and row["quantization"] == "none",
        "accuracy": _figure(row["accuracy"], 100.0) or 0.0,
        "low": _figure(row["low"], 100.0),
        "high": _figure(row["high"], 100.0),
        "seed_low": _figure(row.get("seed_low"), 100.0),
        "seed_high": _figure(row.get("seed_high"), 100.0),
        "params": _figure(row["params"]),
        "file": _figure(row["file_bytes"]),
        "peak": _figure(peak),
        "launches": _figure(counted.get("train_launches")),
        "forgetting": _figure(row["forgetting"]),
    }
    tried = part[(part["curve"] == row["cell"]) & part["lr"].notna() & part["valid_common"].notna()].sort_values("lr")
    if len(tried):
        point["rates"] = [(r["lr"], round(100 * r["valid_common"], 2), bool(r["chosen"])) for _, r in tried.iterrows()]
    if row["cell"] in losses:
        point["loss"] = [(step, round(loss, 4)) for step, loss in losses[row["cell"]]]
    return point


def published_point(
    name: str, shown: str, share: float, low: float, high: float, axes: dict[str, float | None], *, reference: bool
) -> Point:
    """A row of a published table: one seed, unquantized. axes: params, file, peak, forgetting, as far as given."""
    point: Point = {
        "id": name,
        "name": shown,
        "family": family(name),
        "quantization": "none",
        "seeds": 1,
        "reference": reference,
        "baseline": False,
        "accuracy": round(100 * share, 2),
        "low": round(100 * low, 2),
        "high": round(100 * high, 2),
        "seed_low": None,
        "seed_high": None,
        "params": axes.get("params"),
        "file": axes.get("file"),
        "peak": axes.get("peak"),
        "launches": None,
        "forgetting": axes.get("forgetting"),
    }
    return point


def _figure(value: Any, scale: float = 1.0) -> float | None:
    return float(f"{value * scale:.6g}") if known(value) else None


def launches(file: Path) -> Launches:
    """By variant, from the simulated section of reports/bench.json; empty where it is not there."""
    sections = json.loads(file.read_text()) if file.exists() else {}
    return {row["name"]: row for row in sections.get("simulated", {"rows": []})["rows"]}
