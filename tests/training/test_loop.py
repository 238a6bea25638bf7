"""Training against a closed-form schedule, and itself when it is split, stopped and resumed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import adapters as ad
from harness.config.job import Job
from harness.data.batches import batches
from harness.loss import label_loss_sum
from harness.training.checkpoint import Progress, load_checkpoint
from harness.training.interrupt import Interrupted, Interruptible
from harness.training.loop import learning_rate_factor, train
from harness.training.metrics import DivergedError, Metrics
from tests.conftest import attached, data_of, examples, make_model, make_tokenizer

STEPS = 23


def parameters(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in ad.attachment(model).trainable().items()}


def metric_rows(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the clock."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k != "seconds"} for r in rows]


def fit(model: Any, job: Job, folder: Path, check: Any = lambda: None, pad: int = 1) -> Progress:
    folder.mkdir(exist_ok=True)
    return train(model, job, examples(), pad, folder, lambda text: None, check)


# -- the loop ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("steps", "warmup"), [(400, 0.1), (7, 0.5), (1, 0.1), (5, 0.0), (3, 1.0)])
def test_schedule_has_a_closed_form(steps: int, warmup: float) -> None:
    """Linear to 1 at the end of warm-up, then half a cosine whose next step would be 0; never 0, never above 1."""
    warm = round(warmup * steps)
    factors = [learning_rate_factor(s, steps, warmup) for s in range(steps)]
    for s, f in enumerate(factors):
        x = (s - warm) / max(1, steps - warm)
        assert f == pytest.approx((s + 1) / warm if s < warm else math.cos(math.pi * x / 2) ** 2)
    assert all(0 < f <= 1 for f in factors)
    assert max(factors) == 1.0


def test_recorded_rates_are_those_used(model: Any, small_job: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """AdamW's own groups at every step: lr·factor, decay 0.1 only where the variant wants it."""
    seen = []
    step = torch.optim.AdamW.step

    def spy(self: Any, *a: Any, **kw: Any) -> Any:
        seen.append([(g["lr"], g["weight_decay"]) for g in self.param_groups])
        return step(self, *a, **kw)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    job = small_job(f"steps={STEPS}", "lr=3e-3", "train.weight_decay=0.1")
    with attached(model):
        fit(model, job, tmp_path / "a")
    rates = [3e-3 * learning_rate_factor(s, STEPS, job.warmup) for s in range(STEPS)]
    assert [r["lr"] for r in metric_rows(tmp_path / "a")] == pytest.approx(rates)
    assert [g for groups in seen for g in groups] == [(pytest.approx(r), 0.1) for r in rates]


def test_losses_are_the_batches_mean_before_the_step(model: Any, small_job: Any, tmp_path: Path) -> None:
    """The first recorded losses, recomputed from the batches with a zero learning rate's worth of training: none."""
    job = small_job("steps=3", "lr=1e-30")
    with attached(model):
        result = fit(model, job, tmp_path / "a")
    data = examples()
    order = list(batches(data, steps=3, batch_size=job.batch_size, seed=job.seed))
    for loss, indices in zip(result.losses, order, strict=True):
        batch = [data[n] for n in indices]
        total = 0.0
        for e in batch:  # one at a time: no padding
            logits = model(input_ids=torch.tensor([e.ids])).logits[0].double().log_softmax(-1)
            total -= sum(float(logits[t - 1, e.ids[t]].detach()) for t in range(e.prompt, len(e.ids)))
        assert loss == pytest.approx(total / sum(len(e.ids) - e.prompt for e in batch), rel=1e-5)
    assert result.tokens == sum(len(data[n].ids) for indices in order for n in indices)


def test_micro_batches_change_nothing_but_memory(model: Any, small_job: Any, tmp_path: Path) -> None:
    """Also where a batch is no multiple of it. fp64, so that the difference in summation order is no excuse."""
    model.double()
    found = []
    for k, micro in enumerate(("null", "1", "3")):
        with attached(model):
            for p in ad.attachment(model).trainable().values():
                p.data = p.data.double()
            job = small_job("steps=5", f"train.micro_batch={micro}")
            result = fit(model, job, tmp_path / str(k))
            found.append((result.losses, parameters(model)))
    for losses, params in found[1:]:
        assert losses == pytest.approx(found[0][0], rel=1e-6)
        for name, p in params.items():
            torch.testing.assert_close(p, found[0][1][name], rtol=1e-6, atol=1e-9)


# -- stopping and going on --------------------------------------------------------------------------------------------
class KillError(BaseException):
    """Stands for a kill -9: nothing is written after it."""


def stop_at(step: int, error: type[BaseException]) -> Any:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > step:
            raise error

    return check


@pytest.mark.parametrize("variant", ["lora", "antipasto_dplr", "full"])
@pytest.mark.parametrize(
    ("every", "stop", "error"),
    [
        (5, 13, KillError),  # goes on from 10
        (7, 16, KillError),  # from 14: between two of the steps at which numbers are fetched
        (100, 9, KillError),  # no checkpoint yet: from the start
        (100, 13, Interrupted),  # a signal: from where it was
        (4, STEPS, KillError),  # all steps done, killed in what follows
    ],
)
def test_resumed_equals_uninterrupted(
    tokenizer: Any, small_job: Any, tmp_path: Path, variant: str, every: int, stop: int, error: type[BaseException]
) -> None:
    """Parameters bit for bit, losses, tokens and metrics.jsonl. The base has dropout, whose masks must be the same."""
    lr = 1e-4 if variant == "full" else 1e-2
    job = small_job(f"steps={STEPS}", f"train.checkpoint_every={every}", f"lr={lr}")

    def base() -> Any:  # another process would load it again
        return make_model(len(tokenizer), attention_dropout=0.2)

    with attached(base(), variant) as handle:
        whole = fit(handle.model, job, tmp_path / "whole")
        expected = parameters(handle.model)
    again = tmp_path / "again"
    with attached(base(), variant) as handle:
        if stop < STEPS:
            with pytest.raises(error):
                fit(handle.model, job, again, stop_at(stop, error))
        else:
            fit(handle.model, job, again)
    torch.manual_seed(99)  # whatever the new process has drawn before
    steps = []
    with attached(base(), variant) as handle:
        result = fit(handle.model, job, again, lambda: steps.append(1))
        found = parameters(handle.model)
    done = {KillError: stop // every * every if stop < STEPS else STEPS, Interrupted: stop}[error]
    assert len(steps) == STEPS - done
    assert result.losses == whole.losses
    assert len(result.losses) == STEPS
    assert result.tokens == whole.tokens
    assert metric_rows(again) == metric_rows(tmp_path / "whole")
    assert [r["step"] for r in metric_rows(again)] == list(range(1, STEPS + 1))
    assert all(torch.equal(found[n], expected[n]) for n in expected)
    assert found.keys() == expected.keys()


def test_a_kill_while_the_checkpoint_is_written_leaves_the_old_one(
    model: Any, small_job: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    job = small_job(f"steps={STEPS}", "train.checkpoint_every=5")
    with attached(model):
        fit(model, job, tmp_path / "whole")
        expected = parameters(model)
    written = 0

    def cut_short(tensors: Any, path: Path, metadata: Any) -> None:
        nonlocal written
        written += 1
        if written == 3:
            Path(path).write_bytes(b"half a checkpoint")
            raise KillError
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setattr("harness.training.checkpoint.save_file", cut_short)
    with attached(model), pytest.raises(KillError):
        fit(model, job, tmp_path / "cut")
    with attached(model):
        fit(model, job, tmp_path / "cut")
        assert all(torch.equal(p, expected[n]) for n, p in parameters(model).items())
    assert metric_rows(tmp_path / "cut") == metric_rows(tmp_path / "whole")


def test_signals_are_answered_between_steps() -> None:
    """The first signal only sets a flag, the second stops at once, and the handlers are put back."""
    import os
    import signal

    before = signal.getsignal(signal.SIGTERM)
    with Interruptible() as interrupts:
        interrupts.check()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted):
            interrupts.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("every", [1, 100])
def test_nan_is_an_outcome(model: Any, small_job: Any, tmp_path: Path, monkeypatch: Any, every: int) -> None:
    """Named with its step within ten steps, in metrics.jsonl, and never in a checkpoint."""
    calls = 0

    def poisoned(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        return label_loss_sum(*args) * (math.nan if calls == 12 else 1.0)

    monkeypatch.setattr("harness.training.loop.label_loss_sum", poisoned)
    job = small_job(f"steps={STEPS}", f"train.checkpoint_every={every}")
    with attached(model), pytest.raises(DivergedError, match=r"^loss nan, gradient norm nan at step 12$"):
        fit(model, job, tmp_path / "a")
    assert calls <= 12 + Metrics.EVERY
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == list(range(1, 13))
    if every == 1:
        with attached(model) as handle:
            optimizer = torch.optim.AdamW(handle.trainable().values())
            assert load_checkpoint(tmp_path / "a", handle.trainable(), optimizer).step == 11
            assert all(torch.isfinite(p).all() for p in handle.trainable().values())


def test_gradient_checkpointing_trains_to_the_same_numbers(model: Any, small_job: Any, tmp_path: Path) -> None:
    """Activations are recomputed, adapters keep their gradients, and the model is left as it was."""
    from harness.inputs.base_model import gradient_checkpointing

    losses = {}
    for enabled in (False, True):
        job, folder = small_job("steps=3"), tmp_path / str(enabled)
        folder.mkdir()
        with ad.attach(model, job.adapter, seed=0), gradient_checkpointing(model, enabled=enabled):
            assert model.is_gradient_checkpointing is enabled
            examples = data_of(job, make_tokenizer()).train
            losses[enabled] = train(model, job, examples, 1, folder, lambda _: None, lambda: None).losses
    assert not model.is_gradient_checkpointing
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    assert losses[True][-1] != losses[True][0]
