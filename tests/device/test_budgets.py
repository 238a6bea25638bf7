"""The counts of reports/bench.json against the budgets; tests/oracles/<variant>.py says why one is not met."""

from __future__ import annotations

import json
from typing import Any

import pytest

import adapters as ad
from harness.paths import ROOT
from tests.oracles import oracle
from tools.benches.launches import LIMITS, over_budget, page, ratios

MEASURED = json.loads((ROOT / "reports" / "bench.json").read_text())["simulated"]
COUNTED = [r["name"] for r in MEASURED["rows"] if r["name"] in ad.VARIANTS and not ad.VARIANTS[r["name"]].trains_base]


def marked(names: list[str], budget: str, *more: str) -> list[Any]:
    """Test parameters; those whose oracle says that the budget is not met are expected to fail, and to fail alone."""
    reasons = {n: oracle(n, "OVER", {}).get(budget) for n in names}
    expected = {n: [pytest.mark.xfail(strict=True, reason=r)] if r else [] for n, r in reasons.items()}
    return [pytest.param(n, *more, marks=marks) for n, marks in expected.items()]


@pytest.mark.parametrize(("name", "budget"), [case for b in LIMITS for case in marked(COUNTED, b, b)])
def test_budget(name: str, budget: str) -> None:
    found = ratios(MEASURED["rows"])[name]
    if budget in found:  # `none` trains nothing
        assert found[budget] <= LIMITS[budget]


def test_no_step_waits_for_the_device() -> None:
    assert {r["train_waits"] for r in MEASURED["rows"] if r["name"] in COUNTED and "train_waits" in r} == {0}


def test_the_page_names_what_is_over() -> None:
    """Made-up counts: each ratio by hand, and the mark on the variant that is over."""
    keys = ("train_launches", "decode_launches", "train_peak_bytes", "decode_peak_bytes", "held_bytes", "train_waits")
    lora, hra, whole = ([100, 110, 2e9, 3e9, 1e9, 0], [120, 110, 2.2e9, 3e9, 1e9, 0], [90, 99, 4e9, 3e9, 1e9, 1])
    rows = [{"name": "none", "decode_launches": 100, "decode_peak_bytes": 3e9, "held_bytes": 1e9}]
    named = {"lora": lora, "hra": hra, "lora (PEFT), model(labels=…)": whole}
    rows += [{"name": n, **dict(zip(keys, values, strict=True))} for n, values in named.items()]
    found = ratios(rows)
    assert found["hra"] == pytest.approx({"decode": 1.1, "train": 1.2, "peak": 1.1, "peft": 0.55})
    assert over_budget(found["hra"]) == ["train", "peak"]
    assert over_budget(found["lora"]) == []
    text = page({"arguments": MEASURED["arguments"], "rows": rows})
    assert "| hra | 120 | 1.20 (over) | 110 | 1.10 | 2.20 | 1.10 (over) | 0.55 | 3.00 |" in text
    assert text.count("(over) |") == 2
