"""`make table` reads from the records what is left to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.inputs.fingerprints import Fingerprinter
from tests.records.test_tuning import put, trained
from tools.table import lacking


def test_a_variant_gets_five_rates_then_what_lies_beyond_an_edge_then_seeds(
    small_job: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("harness.records.tuning.PUBLISHED", tmp_path / "published")
    base = small_job("lr=0.01")

    def left(*results: tuple[float, int, float]) -> list[tuple[float | None, int | None]]:
        for lr, seed, valid in results:
            put(base.runs_dir, trained(small_job(f"lr={lr}", f"seed={seed}"), valid))
        return [(job.lr, job.seed) for job in lacking(base, 3, Fingerprinter())]

    assert left() == [(0.001, 0), (0.003, 0), (0.01, 0), (0.03, 0), (0.1, 0)]
    assert left((0.003, 0, 0.1), (0.01, 0, 0.2)) == [(0.001, 0), (0.03, 0), (0.1, 0)]
    assert left((0.001, 0, 0.1), (0.03, 0, 0.5), (0.1, 0, 0.6)) == [(0.3, 0)]  # 0.1 is the best and the largest
    assert left((0.3, 0, 0.7)) == [(1.0, 0)]
    assert left((1.0, 0, 0.6)) == [(0.3, 1), (0.3, 2)]
    assert left((0.3, 1, 0.1), (0.3, 2, 0.1)) == []  # further seeds do not change the choice


def test_a_run_without_a_rate_is_wanted_until_there_is_a_record(
    small_job: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("tools._pool.PUBLISHED", tmp_path / "published")
    base = small_job("variant=none", "lr=null")
    assert lacking(base, 3, Fingerprinter()) == [base]
    put(tmp_path / "published", trained(base, 0.1))
    assert lacking(base, 3, Fingerprinter()) == []
