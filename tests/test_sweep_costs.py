"""The arithmetic of a large grid, and that docs/sweeps.md holds what the measurements give."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness import sweep_costs
from harness.sweep_costs import Bill, bill

MEASURED: dict[str, Any] = {
    "planning": {"jobs": 100, "seconds": 5.0},
    "skipping": {"first_run": 9.0, "further_run": 2.0},
    "whole_runs": {"none": 60.0, "8bit": 120.0, "4bit": 90.0},
}


def test_a_bill_adds_up() -> None:
    """Eight runs of 10 s and two of 30 s: planned twice at 50 ms a job; 7 s to start a process."""
    runs = [10.0] * 8 + [30.0] * 2
    assert bill(runs, MEASURED, 1, per_job=False) == Bill(runs=140.0, start=7.0, plan=1.0, tail=0.0)
    assert bill(runs, MEASURED, 5, per_job=False) == Bill(runs=28.0, start=7.0, plan=1.0, tail=30.0)
    assert bill(runs, MEASURED, 5, per_job=True) == Bill(runs=28.0, start=14.0, plan=1.0, tail=30.0)
    assert bill(runs, MEASURED, 5, per_job=True).whole == 73.0


def test_every_run_takes_its_variants_and_its_quantizations_time() -> None:
    """The published times only say how much longer one variant's runs take than another's."""
    known = dict.fromkeys(sweep_costs.variants(), 100.0)
    slow = next(name for name in known if name != sweep_costs.roles().baseline)
    runs = sweep_costs.run_seconds(MEASURED, known | {slow: 200.0})
    assert len(runs) == len(known) * 5 * 3 * 5 == 1275
    assert sum(runs) == pytest.approx(25 * (60 + 120 + 90) * (len(known) + 1))
    assert max(runs) == 240.0


def test_the_grid_is_every_published_adapter() -> None:
    assert sweep_costs.published_seconds().keys() - set(sweep_costs.variants()) == {"none", "full"}


def test_the_page_is_what_the_measurements_give(capsys: Any) -> None:
    """And the grid that was planned in the measurement is the one that is counted."""
    sweep_costs.main(["check=true"])
    assert json.loads(sweep_costs.FILE.read_text())["planning"]["jobs"] == 1275
