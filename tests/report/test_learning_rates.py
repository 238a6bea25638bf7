"""Learning rates: chosen on validation, with an equal budget; edges and divergence are said."""

from __future__ import annotations

import pandas as pd

from harness.report.markdown import markdown_table
from harness.report.readme import results
from harness.report.table import rows
from tests import factory
from tests.report.conftest import chosen


def test_rates_are_chosen_on_validation_with_an_equal_budget() -> None:
    """By the seeds that every rate ran: three lucky seeds more at another rate, or any test result, change nothing."""
    rate = {lr: factory.record("hra", 0, lr, skill=s) for lr, s in ((1e-3, -1.0), (3e-3, 0.5), (1e-2, -0.5))}
    valid = {lr: r["valid"]["accuracy"] for lr, r in rate.items()}
    best = max(valid, key=lambda lr: valid[lr])
    assert best == 3e-3
    more = [factory.record("hra", s, 1e-2, skill=4.0) for s in (1, 2, 3)]
    for records in ([*rate.values()], [*rate.values(), *more]):
        for r in records:  # a test set on which the worst rate shines
            share = 1.0 if r["lr"] == 1e-3 else 0.0
            right = [share == 1.0] * r["test"]["total"]
            r["test"] |= {"correct_bits": factory.to_bits(right), "accuracy": share, "correct": sum(right)}
        frame = rows(records)
        row = chosen(frame, "hra")
        assert (row["lr"], bool(row["edge"]), row["rates"]) == (3e-3, False, 3)
        assert {r["lr"]: r["valid_common"] for _, r in frame.iterrows()} == valid
    assert set(frame["valid_seeds"]) == {1}


def test_edges_and_divergence_are_said(frame: pd.DataFrame) -> None:
    dplr, ia3 = chosen(frame, "antipasto_dplr"), chosen(frame, "ia3")
    assert (dplr["lr"], bool(dplr["edge"])) == (1e-2, True)
    assert (ia3["lr"], bool(ia3["edge"]), ia3["curve_diverged"]) == (3e-3, False, 1)
    lost = frame[(frame["variant"] == "ia3") & (frame["lr"] == 1e-2)].iloc[0]
    assert (lost["valid_common"], lost["seeds"], lost["diverged"]) == (0.0, 0, 1)
    text = markdown_table("t", frame, {})
    assert "| 0.01 (edge) |" in text
    assert "| 0.01 (3, edge) |" in results(frame)
    assert "[ia3](https://arxiv.org/abs/2205.05638) (1 diverged)" in text
    assert "a better one may lie outside" in text


def test_a_rate_at_which_all_runs_diverge_is_never_chosen() -> None:
    lost = [factory.record("hra", s, 1e-2, status="diverged") for s in (0, 1)]
    poor = factory.record("hra", 0, 1e-3, skill=-4.0)
    failed = factory.record("hra", 0, 3e-3, status="failed")
    row = chosen(rows([*lost, poor, failed]), "hra")
    assert (row["lr"], row["curve_diverged"], row["curve_failed"]) == (1e-3, 2, 1)
    assert chosen(rows(lost), "hra")["seeds"] == 0
