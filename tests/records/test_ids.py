"""Run ids, and what makes two runs the same."""

from __future__ import annotations

import dataclasses
import functools
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import adapters as ad
from harness.config.compose import compositions
from harness.config.job import Job, Source, Tracking
from harness.config.validate import job_from
from harness.hashing import file_sha256
from tests.conftest import run_id_of, science_of


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("variant=antipasto_dplr lora_rank=8 lr=5e-3", "antipasto_dplr__r64__k8__lr0.005__none__s250__seed0"),
        ("variant=antipasto_dplr rank=300 lr=0.005", "antipasto_dplr__r300__k8__lr0.005__none__s250__seed0"),
        ("variant=lora rank=4 lr=1e-4 steps=50 seed=3", "lora__r4__lr0.0001__none__s50__seed3"),
        ("variant=full lr=2e-5", "full__lr2e-05__none__s250__seed0"),
        ("variant=none seed=3 steps=7 lr=1 rank=3", "none__none"),
        ("variant=none quantization=8bit", "none__8bit"),
        ("lr=1e-4 variant=lora threads=1 device=cpu runs_dir=/x", "lora__r8__lr0.0001__none__s250__seed0"),
        ("lr=1e-4 variant=lora train.micro_batch=2", "lora__r8__lr0.0001__none__s250__seed0"),
        ("variant=lora lr=1e-4 force=true train.checkpoint_every=7", "lora__r8__lr0.0001__none__s250__seed0"),
    ],
)  # fmt: skip
def test_ids_are_the_designs(words: str, expected: str, cache_dir: Path) -> None:
    """With nothing else changed there is no hash; what is neither science nor an axis of the variant is not in it."""
    (cfg,) = compositions(["benchmark=tiny", *words.split(), f"cache_dir={cache_dir}"], multirun=False)
    assert run_id_of(job_from(cfg)) == f"tiny-tiny__{expected}"


SCIENCE: dict[str, list[Any]] = {
    "lr": [1e-2, 5e-3, 5.0000001e-3],
    "seed": [0, 1],
    "steps": [6, 7],
    "batch_size": [4, 16],
    "prompt": ["Question: {query} Think step by step.\nAnswer:", "{query}="],
    "valid_size": [6, 7],
    "weight_decay": [0.1, 0.0],
    "eval_limit": [None, 5],
    "compile": [False, True],
    "max_new_tokens": [12, 13],
    "max_length": [256, 300],
    "adapter": [
        ad.VARIANTS["lora"].Config(r=8, alpha=16.0),
        ad.VARIANTS["lora"].Config(r=9, alpha=16.0),
        ad.VARIANTS["lora"].Config(r=8, alpha=17.0),
        ad.VARIANTS["lora"].Config(r=8, alpha=16.0, targets=("q_proj", "v_proj")),
        ad.VARIANTS["lora"].Config(r=8, alpha=16.0, dtype="bfloat16"),
    ],
}
ELSEWHERE: dict[str, list[Any]] = {
    "micro_batch": [None, 2],
    "checkpoint_every": [100, 3],
    "threads": [None, 1, 7],
    "device": ["cpu", "cuda:0"],
    "share_gpu": [False, True],
    "gradient_checkpointing": [False, True],
    "eval_repeat": [1, 2],
    "platinum": [Source(__file__, None, None, "test", None, {}), Source(None, None, None, "test", None, {})],
    "tracking": [Tracking("none", None, None), Tracking("wandb", "offline", "p")],
    "runs_dir": [Path("/a"), Path("/b")],
    "force": [False, True],
    "dry_run": [False, True],
}


def changes(fields: dict[str, list[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in fields.items()})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=changes(SCIENCE), second=changes(SCIENCE), where=changes(ELSEWHERE))
def test_equal_science_is_equal_ids(
    small_job: Any, monkeypatch: Any, first: dict[str, Any], second: dict[str, Any], where: dict[str, Any]
) -> None:
    """Same science, same id and hash; other science, other ones; device, threads, folders and memory are none of it."""
    base = _once(small_job)
    with monkeypatch.context() as m:
        m.setattr("harness.records.ids.default_job", lambda job: _usual(base))
        m.setattr("harness.inputs.fingerprints.file_sha256", hashed_once)
        one = dataclasses.replace(base, **first)
        other = dataclasses.replace(base, **(second | where))
        same = dataclasses.replace(base, **first, **where)
        sciences = [science_of(j) for j in (one, other, same)]
        ids = [run_id_of(j) for j in (one, other, same)]
    assert ids[0] == ids[2]
    assert sciences[0] == sciences[2]
    differ = any(getattr(one, k) != getattr(other, k) for k in SCIENCE)
    assert (sciences[0] != sciences[1]) == differ
    assert (ids[0] != ids[1]) == differ
    assert all(len(i) <= 200 and re.fullmatch(r"[\w.+-]+", i) for i in ids)


hashed_once = functools.lru_cache(None)(file_sha256)
_made: list[Job] = []


def _once(small_job: Any) -> Job:
    if not _made:
        _made.append(small_job())
    return _made[0]


def _usual(base: Job) -> Job:
    """A default that differs from the base in data and model only: the hash is there in every id."""
    return dataclasses.replace(base, test_source=base.train_source)


def test_contents_enter_and_places_do_not(small_job: Any, model_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    first = science_of(small_job())
    for name, source in (("model", model_dir), ("data", data_dir)):
        shutil.copytree(source, tmp_path / name)
    moved = ["train", "questions", "test"]
    words = [f"data.{s}.path={tmp_path / 'data' / s}.jsonl" for s in moved] + [f"model.id={tmp_path / 'model'}"]
    words += [f"benchmark.forgetting_text={tmp_path / 'data' / 'other.txt'}"]
    job = small_job(*words)
    assert science_of(job) == first
    assert run_id_of(job) == run_id_of(small_job())

    ids = {run_id_of(job)}
    weights = [tmp_path / "model" / name for name in ("config.json", "model.safetensors")]
    for file in [*(tmp_path / "data").iterdir(), *weights]:
        before = file.read_bytes()
        file.write_bytes(before + b" ")
        ids.add(run_id_of(job))
        file.write_bytes(before)
    assert len(ids) == 7
    assert run_id_of(job) == run_id_of(small_job())
    columns = small_job(*words, "data.test.columns.answer=solution")
    assert run_id_of(columns) not in ids


@pytest.mark.parametrize("variant", sorted(ad.VARIANTS))
def test_every_setting_of_a_variant_is_in_its_science(variant: str, cache_dir: Path) -> None:
    words = ["benchmark=tiny", f"variant={variant}", f"cache_dir={cache_dir}"]
    (cfg,) = compositions(words, multirun=False)
    job = job_from(cfg)
    fields = {f"adapter.{f.name}" for f in dataclasses.fields(job.adapter)}
    found = {k for k in science_of(job) if k.startswith("adapter.")}
    assert found == (fields if job.trains else set())
