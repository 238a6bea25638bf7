"""`make study`: experiments are data; each run is done once, and records decide what is left."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import adapters as ad
from harness.config.job import Job
from harness.inputs.fingerprints import Fingerprinter
from harness.records.plan import plan
from tests import factory
from tests.records.test_tuning import put, trained
from tools import study
from tools._pool import work
from tools.study import by_response_loss, experiments, jobs_of, runs_left


def with_responses(job: Job, nats: float) -> dict[str, Any]:
    """The record that a run of this job would leave, had its validation responses this loss."""
    record = trained(job, 0.0)
    return record | {"valid": record["valid"] | factory.responses([nats] * 100, 100)}


def test_pairs_of_nearly_equal_size(tmp_path: Path) -> None:
    """The counts in conf/study.yaml are the config classes'; each block is the nearest to its core that there is."""
    jobs, width = jobs_of("arrow_vs_dplr", str(tmp_path)), 256  # of the embedded model's layers
    assert len(jobs) == 3 * (4 * (7 + 6) + 4 + 3 + 1)
    assert {(job.lr, job.seed) for job in jobs} == {
        (lr, seed) for lr in (0.003, 0.01, 0.03, 0.1, 1.0, 10.0) for seed in range(3)
    }
    sizes: dict[str, dict[int, int]] = {}
    for job in jobs:
        own = ad.config_fields(job.adapter)
        shapes = ad.VARIANTS[job.variant].shapes(job.adapter, width, width)
        key = own["block"] if "block" in own else own["lora_rank"]
        sizes.setdefault(job.variant, {})[key] = sum(math.prod(shape) for shape in shapes.values())
    dense, low = sizes["antipasto_arrow"], sizes["antipasto_dplr"]
    assert dense == {8: 120, 12: 196, 16: 304, 23: 570, 32: 1056, 46: 2134, 64: 4096}
    assert low == {1: 192, 2: 320, 4: 576, 8: 1088, 16: 2112, 32: 4160}
    every = {b: b * b + 64 - b for b in range(2, 65)}
    for size, b in zip(low.values(), sorted(dense)[1:], strict=True):
        assert 0 < abs(dense[b] - size) == min(abs(other - size) for other in every.values()) <= 0.06 * size


def test_every_experiment_is_known_and_a_wrong_name_refused() -> None:
    assert set(experiments()) == {"arrow_vs_dplr", "rank_sweep", "quantizations", "weight_decay", "smollm2"}
    with pytest.raises(SystemExit, match=r"experiment: unknown, got 'nope'; expected one of arrow_vs_dplr, "):
        study.main(["experiment=nope", "plan=true"])
    how = experiments()["smollm2"]["tuned"]
    assert set(how["variants"]) <= ad.VARIANTS.keys()
    assert len(how["variants"]) == 10


@pytest.mark.slow
def test_a_run_of_two_experiments_is_done_once_and_records_end_it(
    small_job: Any, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Jobs that differ only in how their rate came about are one run; local and published outcomes both count."""
    monkeypatch.setattr("tools._pool.PUBLISHED", tmp_path / "published")
    first, second, third = (small_job(f"seed={s}") for s in (0, 1, 2))
    monkeypatch.setattr(study, "jobs_of", lambda *_: [first, small_job("lr_scale=1.0"), second, third])
    left = runs_left(["rank_sweep"], str(first.runs_dir), Fingerprinter())
    assert [job.seed for job in left()] == [0, 1, 2]
    put(first.runs_dir, trained(first, 0.5), trained(second, 0.5) | {"status": "failed"})
    assert [job.seed for job in left()] == [1, 2]
    put(tmp_path / "published", trained(third, 0.5) | {"status": "diverged"})
    work(left, 1, Fingerprinter(), dry=True)
    assert capsys.readouterr().out.splitlines() == [plan(second).id, "1 runs are left, as far as is known"]
    work(left, 1, Fingerprinter())  # in a process of its own
    assert left() == []


def test_the_rate_of_a_tuned_experiment_has_the_lowest_response_loss(
    small_job: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """Three rates, one more beyond an edge, then the second seed; a diverged rate is the worst."""
    monkeypatch.setattr("harness.records.tuning.PUBLISHED", tmp_path / "published")
    base = small_job()
    monkeypatch.setattr(study, "_bases", lambda *_: [base])
    left = runs_left(["smollm2"], str(base.runs_dir), Fingerprinter())
    assert [job.lr for job in left()] == [0.003, 0.01, 0.03]

    def at(lr: float) -> Job:
        return small_job(f"lr={lr}")

    put(base.runs_dir, with_responses(at(0.003), 1.5), with_responses(at(0.01), 1.2))
    put(base.runs_dir, with_responses(at(0.03), 1.1))
    assert [job.lr for job in left()] == [0.1]
    put(base.runs_dir, with_responses(at(0.1), 0.5) | {"status": "diverged"})
    assert [(job.lr, job.seed, job.lr_chosen) for job in left()] == [(0.03, 1, "given")]  # the run keeps this rate
    put(base.runs_dir, with_responses(small_job("lr=0.03", "seed=1"), 9.0))
    assert left() == []
    assert by_response_loss(trained(base, 0.5)) is None  # type: ignore[arg-type]
