"""What a command line composes to: sweeps as Hydra's own, and experiments."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from harness.config.compose import compositions
from harness.config.validate import job_from
from harness.paths import CONF
from harness.run import run
from tests.conftest import run_id_of
from tests.programs import with_words


def test_swept_values_compose_as_hydra_composes_them() -> None:
    """Values are set on a copy of what the groups compose to: the same configs as one composition per job."""
    fixed = ["benchmark=tiny", "variant.coeff=0.5"]
    swept = {
        "variant": ["antipasto", "antipasto_dplr"],
        "lr": ["1e-3", "tuned", "null"],
        "targets": ["[a,b]", "qv"],
        "train.micro_batch": ["2", "null"],
        "variant.r": ["8"],
    }
    words = [*fixed, *(f"{k}={','.join(v)}" for k, v in swept.items())]
    ours = [OmegaConf.to_container(c, resolve=True) for c in compositions(words, multirun=True)]
    theirs = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for values in itertools.product(*swept.values()):
            lines = [*fixed, *(f"{k}={v}" for k, v in zip(swept, values, strict=True))]
            theirs.append(OmegaConf.to_container(compose("config", overrides=lines), resolve=True))
    assert len(ours) == 24
    assert ours == theirs


def test_every_axis_in_one_line_and_axes_a_variant_lacks(cache_dir: Path) -> None:
    """variant × rank × lora_rank × lr × quantization × seed; for a variant without an axis it is the same run."""
    words = ["benchmark=tiny", "variant=antipasto_dplr,lora,ia3", "rank=4,8", "lora_rank=2,4", "lr=1e-3,1e-2"]
    words += ["quantization=none,4bit", "seed=0,1", f"cache_dir={cache_dir}"]
    ids = [run_id_of(job_from(c)) for c in compositions(words, multirun=True)]
    assert len(ids) == 3 * 2**5
    per_variant = {v: {i for i in ids if f"__{v}__" in i} for v in ("antipasto_dplr", "lora", "ia3")}
    assert [len(found) for found in per_variant.values()] == [32, 16, 8]


EXPERIMENTS = sorted(p.stem for p in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs_for_one_step(overrides: list[str], small_job: Any, tmp_path: Path, name: str) -> None:
    """On the small model and data of these tests, its first job; tuned rates find two to choose from."""
    for lr in ("1e-3", "1e-2"):
        run(small_job("steps=1", "eval.limit=2", f"lr={lr}"))
    given = [w for w in overrides if not w.startswith("lr=")]
    words = [*given[:1], f"experiment={name}", *given[1:], "model=tiny"]
    words += [f"data.train.columns.{c}={c}" for c in ("query", "response", "original_question")]
    cfg = next(iter(compositions(with_words(words, "steps=1", "eval.limit=2"), multirun=True)))
    record = run(job_from(cfg), in_sweep=True)
    assert (record["status"], record["steps"]) == ("done", 1)


def test_an_experiments_values_win_over_the_defaults_and_lose_to_the_command_line() -> None:
    def job(*words: str) -> Any:
        return job_from(next(iter(compositions(["benchmark=tiny", "experiment=quick", *words], multirun=True))))

    assert (job().steps, job().eval_limit) == (40, 50)
    assert (job("steps=7").steps, job("eval.limit=null").eval_limit) == (7, None)


def test_a_grid_around_the_default_has_round_rates(cache_dir: Path) -> None:
    """An experiment's own sweep is composed too, and no id carries a hash for the last digit of a product."""
    words = ["benchmark=tiny", "experiment=lr_grid", "variant=lora,hra", f"cache_dir={cache_dir}"]
    jobs = [job_from(c) for c in compositions(words, multirun=True)]
    assert [j.lr for j in jobs if j.variant == "lora"] == [1e-3, 3e-3, 1e-2, 3e-2, 1e-1]
    assert all(re.fullmatch(r"\S+__lr[\d.]+__none__s250__seed0", run_id_of(j)) for j in jobs)


def test_sweeps_compose_every_combination() -> None:
    """Lists, ranges and globs, as Hydra's own sweeper takes them."""
    words = ["benchmark=tiny", "variant=glob(antipasto_d*)", "lr=1e-3,1e-4", "seed=range(2)", "targets=[a,b],c"]
    jobs = [job_from(cfg) for cfg in compositions(words, multirun=True)]
    found = {(j.variant, j.lr, j.seed, str(j.adapter.targets)) for j in jobs}
    assert len(jobs) == len(found) == 8
    assert {v for v, *_ in found} == {"antipasto_dplr"}
    assert {t for *_, t in found} == {"('a', 'b')", "c"}
