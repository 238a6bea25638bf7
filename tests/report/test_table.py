"""The table is what the records say and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.evaluation.metrics import from_bits
from harness.report.markdown import markdown_table
from harness.report.readme import results
from harness.report.stats import accuracy_interval, wilson
from harness.report.summary import summary_lines
from harness.report.table import rows
from tests import factory

QUESTIONS = 40


def record(variant: str = "lora", seed: int = 0, right: list[bool] | None = None, **more: Any) -> dict[str, Any]:
    """A record with figures that are easily found in a table."""
    right = [n % 4 == 0 for n in range(QUESTIONS)] if right is None else right
    made = factory.record(variant, seed, right=right, params=1234567, status=more.get("status", "done"))
    if made["status"] == "done":
        made["train"]["tokens_per_s"] = 4321.0
        made["memory"] = {"train": {"peak_rss_gb": 1.25}, "eval": {"peak_rss_gb": 0.75}}
        made |= {"adapter_file_bytes": 45678, "seconds": 61.0}
    return made | more


def test_figures_are_those_of_the_records(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    seeds = [(rng.random(QUESTIONS) < p).tolist() for p in (0.4, 0.6)]
    records = [record(seed=n, right=r) for n, r in enumerate(seeds)]
    floor = record("none", right=[True] * 3 + [False] * 37, run_id="tiny-tiny__none__none", lr=None, seed=None)
    lost = record("lora", seed=2, status="diverged")
    frame = rows([*records, floor, lost])
    assert list(frame["variant"]) == ["lora", "none"]
    lora = frame.iloc[0]
    assert lora["accuracy"] == pytest.approx(np.mean(seeds))
    assert (lora["low"], lora["high"]) == accuracy_interval(np.array(seeds))
    assert (lora["seeds"], lora["diverged"], lora["failed"]) == (2, 1, 0)
    assert (frame.iloc[1]["low"], frame.iloc[1]["high"]) == wilson(3, 40)
    text = markdown_table("t", frame, {"lora": {"4bit": "yes", "8bit": "no (why)"}})
    (line,) = [x for x in text.splitlines() if x.startswith("| [lora]")]
    cells = [c.strip() for c in line.strip("|").split("|")]
    assert cells[0] == "[lora](https://arxiv.org/abs/2106.09685) (1 diverged)"
    assert {"yes", "no (why)", "1,234,567", "45.7", "1.25 / 0.75", "0.005"} <= set(cells)
    assert f"{100 * np.mean(seeds):.1f} [{100 * lora['low']:.1f}, {100 * lora['high']:.1f}]" in cells


def test_strata_have_columns_where_there_are_some() -> None:
    """Means over the seeds, in the long table only; a run without strata shows none."""
    drawn = {("lora", 0): 4, ("lora", 1): 2, ("hra", 0): 4}
    records = [record(v, s, [n % k == 0 for n in range(QUESTIONS)]) for (v, s), k in drawn.items()]
    plain = markdown_table("t", rows(records), {})
    for made in records[:2]:
        made["test"]["strata"] = factory.strata(from_bits(made["test"]["correct_bits"], QUESTIONS))
    frame = rows(records)
    lora = frame[frame["variant"] == "lora"].iloc[0]
    assert (lora["accuracy_known"], lora["questions_known"]) == (pytest.approx((5 / 20 + 10 / 20) / 2), 20)
    head, _, *lines = markdown_table("t", frame, {}).splitlines()[2:]
    at = [c.strip() for c in head.split("|")].index("known (20), %")
    cells = {line.split("|")[1].split("]")[0]: line.split("|")[at].strip() for line in lines if "arxiv" in line}
    assert cells == {" [lora": "37.5", " [hra": "–"}
    assert "known" not in plain + results(frame)
    assert "strata      known 25.0 % [" in "\n".join(summary_lines(records[0], Path("runs/x")))


def test_seeds_that_answered_other_questions_are_not_averaged() -> None:
    """Nor those of other settings under the same name: each group has a row of its own."""
    right = [True] * 30 + [False] * 10
    odd = record(seed=1, right=right)
    odd["test"] = odd["test"] | {"questions_hash": "other"}
    other = record(seed=2, right=right)
    other["science"] = other["science"] | {"prompt": "P", "adapter.r": 9}
    default = record(seed=3, right=right)
    default["science"] = default["science"] | {"adapter.r": 9}
    lost = record(seed=4, status="diverged")
    frame = rows([record(seed=0), record(seed=5), odd, other, default, lost])
    assert sorted(zip(frame["seeds"], frame["accuracy"], frame["diverged"], strict=True)) == [
        (1, 0.75, 0), (1, 0.75, 0), (1, 0.75, 0), (2, 0.25, 1),
    ]  # fmt: skip
    assert frame["cell"].is_unique
    assert frame["section"].nunique() == 4


@pytest.mark.parametrize("records", [[], [record(status="diverged")], [record(status="failed")]], ids=len)
def test_tables_of_no_accuracy(records: list[dict[str, Any]]) -> None:
    text = results(rows(records))
    assert ("lora" in text and "–" in text) if records else text == "No published runs yet."


def test_the_floor_of_a_quantized_base_stands_alone_only_where_no_table_has_it() -> None:
    """It fits the settings of every section. Beside trained rows it is in each of their tables."""
    floor = factory.record("none", None, None, quantization="4bit")
    runs = [factory.record("lora"), factory.record("lora", steps=9), factory.record("lora", quantization="4bit")]
    assert rows([*runs, floor]).groupby("section", sort=False)["variant"].agg(list).to_dict() == {
        "Embedded benchmark": ["lora"],
        "Embedded benchmark: 4bit base": ["lora", "none"],
        "Embedded benchmark: 9 steps": ["lora"],
    }
    alone = rows([*runs[:2], floor])
    assert list(alone[alone["variant"] == "none"]["section"]) == ["Embedded benchmark: 4bit base"]
