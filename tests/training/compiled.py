"""train.compile against eager training, to rounding.

Not collected by its name: torch.compile cannot trace the shape checks that the other tests run with, so test_compile.py
runs it in a process of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

import adapters as ad
from harness.config.job import Job
from harness.data.batches import longest_batch
from harness.data.tokenize import Example
from harness.training.compiled import compiled
from harness.training.loop import train
from tests.conftest import make_model
from tests.training.test_loop import KillError, stop_at
from tools._shared import calibration

QUICK = ("lora", "dora", "hra", "antipasto_dplr", "antipasto_rot")
TRAINED = [n for n, v in ad.VARIANTS.items() if v.Config is not ad.NoneConfig]
EACH = [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in TRAINED]
SHAPE = {"num_hidden_layers": 1, "hidden_size": 64, "head_dim": 16, "num_key_value_heads": 4}


def texts() -> list[Example]:
    """Enough for batches of several widths."""
    rng = random.Random(0)
    return [Example(tuple(rng.choices(range(2, 60), k=9 + n)), 4) for n in range(24)]


def fit(job: Job, folder: Path, check: Callable[[], None] = lambda: None) -> list[float]:
    folder.mkdir(exist_ok=True)
    model, ids = make_model(64, **SHAPE), torch.arange(64).view(4, 16) % 60
    longest = longest_batch(texts(), job.batch_size, 1, "cpu")
    batches = calibration(job.variant, ids)
    with ad.attach(model, job.adapter, seed=0, calibration=batches), compiled(model, longest, enabled=job.compile):
        return train(model, job, texts(), 1, folder, lambda text: None, check).losses


@pytest.mark.parametrize("name", EACH)
def test_losses_are_those_of_eager_training(name: str, small_job: Any, tmp_path: Path) -> None:
    """Three steps at a rate that moves the loss; one graph without breaks serves their widths."""
    words = ["steps=3", "lr=1e-2", "train.warmup=0", f"variant={name}"]
    eager = fit(small_job(*words), tmp_path / "eager")
    counters.clear()
    found = fit(small_job(*words, "train.compile=true"), tmp_path / "compiled")
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert found == pytest.approx(eager, rel=1e-4)
    assert eager[2] != pytest.approx(eager[0], rel=1e-3)


def test_a_resumed_run_compiles_the_same_code(small_job: Any, tmp_path: Path) -> None:
    """Bit for bit: the code is chosen for the longest batch, not for the one at which the run resumes."""
    job = small_job("steps=3", "train.compile=true", "train.checkpoint_every=2")
    with pytest.raises(KillError):
        fit(job, tmp_path / "cut", stop_at(2, KillError))
    assert fit(job, tmp_path / "cut") == fit(job, tmp_path / "whole")


def test_the_decoder_is_compiled_in_the_block_alone() -> None:
    """And the loss's own forward goes around it; what does not compile is refused in one line."""
    model = make_model(64, **SHAPE)
    ids = torch.arange(40).view(2, 20)
    batch = ids, torch.arange(1, 20)
    eager = model.train()(input_ids=ids).logits
    with compiled(model, batch, enabled=True):
        assert torch.allclose(model(input_ids=ids).logits, eager, atol=1e-4)
    assert model.get_decoder()._compiled_call_impl is None
    assert not model.training

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise torch._dynamo.exc.InternalTorchDynamoError("no C++ compiler.\nand more")

    model.get_decoder().compile = lambda **_: setattr(model.get_decoder(), "_compiled_call_impl", broken)
    line = (
        r"train\.compile: the model cannot be compiled here \(no C\+\+ compiler\), got True\. Use train\.compile=fal.*"
    )
    with pytest.raises(SystemExit, match=line), compiled(model, batch, enabled=True):
        pass
    assert model.get_decoder()._compiled_call_impl is None
