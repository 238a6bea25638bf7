"""One rule for the learning rate, and nothing computed twice: `lr=tuned`, the report and a run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.cli import sweep
from harness.config.job import Job
from harness.errors import BadInput
from harness.inputs import fingerprints
from harness.inputs.fingerprints import Fingerprinter
from harness.records import plan as planning
from harness.records import record as record_module
from harness.records.plan import new_record, plan
from harness.records.store import read_records
from harness.records.tuning import with_tuned_lr
from harness.report.table import rows
from harness.run import run
from tests import factory


def trained(job: Job, valid: float) -> dict[str, Any]:
    """The record that a run of this job would leave, had it this validation accuracy."""
    right = [n < round(100 * valid) for n in range(100)]
    seen = factory.record("lora", job.seed, job.lr)
    record = seen | json.loads(json.dumps(new_record(plan(job)))) | {"status": "done", "valid": factory.scores(right)}
    return record | {"trainable_params": 9}


def put(folder: Path, *records: dict[str, Any]) -> None:
    for record in records:
        (folder / record["run_id"]).mkdir(parents=True, exist_ok=True)
        (folder / record["run_id"] / "result.json").write_text(json.dumps(record))


def test_lr_tuned_and_the_report_choose_the_same(small_job: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """From local and published records: of two with one id the local one counts; a diverged run counts as 0."""
    published, at = tmp_path / "published", lambda lr, *more: small_job(f"lr={lr}", *more)
    monkeypatch.setattr("harness.records.tuning.PUBLISHED", published)
    job = at("tuned")
    with pytest.raises(BadInput, match=r"^lr: tuned needs finished runs at two or more learning rates, got \[\]"):
        with_tuned_lr(job, Fingerprinter())

    def choices() -> set[float | None]:
        frame = rows(read_records([job.runs_dir, published]).records)
        tuned = with_tuned_lr(job, Fingerprinter())
        assert tuned.lr_chosen == "tuned"
        return {tuned.lr, *frame[frame["chosen"]]["lr"]}

    put(published, trained(at(0.01), 0.5), trained(at(0.03), 0.9))
    assert choices() == {0.03}
    put(job.runs_dir, trained(at(0.03), 0.2))
    assert choices() == {0.01}
    put(job.runs_dir, trained(at(0.1), 0.7), trained(at(0.1, "seed=1"), 0.0), trained(at(0.3), 0.7))
    assert choices() == {0.1}  # by the seed that every rate has; ties go to the smaller rate
    put(job.runs_dir, trained(at(0.1), 0.7) | {"status": "diverged"})
    assert choices() == {0.3}


def test_each_record_is_parsed_once(small_job: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """1,000 records × 50 jobs of `lr=tuned`, and the time estimates of the sweep."""
    base, counts = small_job("lr=0.01"), Counter[Path]()
    one = trained(base, 0.5)
    many = [one | {"run_id": f"{one['run_id']}__{n:08x}", "seed": n, "lr": 0.01 + n % 2} for n in range(1000)]
    put(base.runs_dir, *many)
    monkeypatch.setattr("harness.records.tuning.PUBLISHED", tmp_path / "none")
    monkeypatch.setattr("harness.cli.sweep.PUBLISHED", tmp_path / "none")
    whole = record_module.checked
    monkeypatch.setattr(record_module, "checked", lambda raw: (counts.update([raw["run_id"]]), whole(raw))[1])
    fingerprinter = Fingerprinter()
    jobs = [small_job("lr=tuned", "seed=0", f"steps={6 + n % 2}") for n in range(2)]
    sweep.dry_run([jobs[n % 2] for n in range(50)], fingerprinter)
    assert len(counts) == 1000
    assert set(counts.values()) == {1}


def test_a_run_computes_nothing_twice(small_job: Any, monkeypatch: Any) -> None:
    """Each model and data set is fingerprinted once, the plan is made once and decided once more under the lock."""
    counts: Counter[str] = Counter()

    def counted(module: Any, name: str, key: Any = lambda *_: "") -> None:
        inner = getattr(module, name)

        def call(*args: Any, **more: Any) -> Any:
            counts[f"{name} {key(*args)}".strip()] += 1
            return inner(*args, **more)

        monkeypatch.setattr(module, name, call)

    counted(fingerprints, "model_fingerprint", lambda spec, *_: spec)
    counted(fingerprints, "source_fingerprint", lambda source, *_: source)
    counted(planning, "decide")
    counted(planning, "science")
    counted(planning, "run_id")
    monkeypatch.setattr("harness.run.decide", planning.decide)
    job = small_job()
    run(job)
    assert counts.pop("decide") == 2
    assert counts["science"] == counts["run_id"] == 1
    assert set(counts.values()) == {1}
    assert sum(k.startswith("model_fingerprint") for k in counts) == 2  # the job's, and the default's for the run id
    assert sum(k.startswith("source_fingerprint") and str(job.runs_dir.parent) not in k for k in counts) >= 3
