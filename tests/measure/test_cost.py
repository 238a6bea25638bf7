"""Peak memory: what is shown does not depend on what ran before in the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from harness.measure import cost
from harness.measure.cost import MemoryMeter
from harness.report.markdown import markdown_table
from harness.report.summary import summary_lines
from harness.report.table import rows
from tests import factory


def test_only_the_first_meter_of_a_process_reads_its_resident_set(monkeypatch: Any) -> None:
    monkeypatch.setattr(cost, "_first", True)
    first, second = MemoryMeter("cpu"), MemoryMeter("cpu")
    for meter in (first, second):
        with meter.phase("train"):
            torch.ones(30_000_000)  # 120 MB
        with meter.phase("eval"):
            pass
    train, evaluation = (first.peaks[phase]["peak_rss_gb"] for phase in ("train", "eval"))
    assert train - evaluation > 0.1
    assert second.peaks == {"train": {}, "eval": {}}


def test_unknown_memory_is_shown_as_such() -> None:
    """A dash in the table, with the reason below; the seeds that were measured count; GPU and RSS are not mixed."""
    unknown: dict[str, Any] = {"memory": {"attach": {}, "train": {}, "eval": {}}}
    record = factory.record(seed=0) | unknown
    assert "peak memory not measured (another run came first in this process)" in "\n".join(
        line.strip() for line in summary_lines(record, Path("r"))
    )
    frame = rows([record, factory.record("hra")])
    text = markdown_table("t", frame, {})
    assert "Peak RSS is known only for the first run of a process." in text
    head, lora = (
        [c.strip() for c in x.split("|")] for x in text.splitlines() if x.startswith(("| variant", "| [lora]"))
    )
    assert lora[head.index("peak RSS train / eval, GB")] == "–"
    assert pd.isna(frame.set_index("variant").loc["lora", "train_overhead_gb"])
    mixed = rows([record, factory.record(seed=1), factory.record(seed=2, peak="peak_allocated_gb")])
    assert (mixed.iloc[0]["memory"], mixed.iloc[0]["peak_train_gb"]) in {("RSS", 0.9), ("GPU", 0.9)}
