"""Loss curves of finished runs, thinned out."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pandas as pd

from harness.records.record import LARGEST

Losses = dict[str, list[tuple[int, float]]]  # cell → (step, loss), a few dozen points
POINTS = 60  # per curve: steps are averaged in as many groups


def losses(part: pd.DataFrame, folders: list[Path]) -> Losses:
    """Loss curves of the first seed of every chosen row whose metrics.jsonl can be read."""
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
        parts = min(POINTS, len(points))
        cuts = [n * len(points) // parts for n in range(parts + 1)] if parts else []
        groups = [points[a:b] for a, b in pairwise(cuts)]
        if groups:
            out[row["cell"]] = [(g[-1][0], sum(loss for _, loss in g) / len(g)) for g in groups]
    return out
