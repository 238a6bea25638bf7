"""Training bf16 weights: fp32 copies are what AdamW updates, and what a checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import adapters as ad
from harness.data.batches import batches, collate
from harness.loss import label_loss_sum
from harness.training.interrupt import Interrupted
from harness.training.loop import learning_rate_factor, train
from harness.training.masters import Masters
from tests.conftest import attached, examples, make_model

STEPS, LR = 12, 1e-5


def fit(model: Any, job: Any, folder: Path, stop: int = STEPS) -> dict[str, torch.Tensor]:
    """The weights after training, interrupted before step `stop`."""
    calls = iter(range(STEPS + 1))

    def check() -> None:
        if next(calls) == stop:
            raise Interrupted

    folder.mkdir(exist_ok=True)
    with attached(model, "full") as handle:
        if stop < STEPS:
            with pytest.raises(Interrupted):
                train(model, job, examples(), 1, folder, print, check)
        else:
            train(model, job, examples(), 1, folder, print, check)
        return {n: p.detach().clone() for n, p in handle.trainable().items()}


def by_hand(model: Any, job: Any) -> dict[str, torch.Tensor]:
    """fp32 copies of a bf16 model's weights after the same steps: rounded for each pass, AdamW on their gradients."""
    model.requires_grad_(True).train()
    own = dict(model.named_parameters())
    wide = {n: p.detach().float().requires_grad_() for n, p in own.items()}
    optimizer = torch.optim.AdamW(wide.values(), lr=job.lr, weight_decay=job.weight_decay)
    for step, order in enumerate(batches(examples(), steps=STEPS, batch_size=job.batch_size, seed=job.seed)):
        batch = [examples()[n] for n in order]
        ids, labels = collate(batch, 1, "cpu")
        model.zero_grad()
        (label_loss_sum(model, ids, labels) / len(labels)).backward()
        for n, p in wide.items():
            p.grad = own[n].grad.float()
        torch.nn.utils.clip_grad_norm_(wide.values(), job.clip)
        optimizer.param_groups[0]["lr"] = job.lr * learning_rate_factor(step, STEPS, job.warmup)
        optimizer.step()
        for n, p in wide.items():
            own[n].data.copy_(p.data)
    return {n: p.detach() for n, p in wide.items()}


def test_small_steps_of_bf16_weights_add_up(tokenizer: Any, small_job: Any, tmp_path: Path) -> None:
    """Equal to the steps by hand, bit for bit, also when resumed; and small steps on bf16 itself would be lost."""
    job = small_job(f"steps={STEPS}", f"lr={LR}")

    def base() -> Any:
        return make_model(len(tokenizer)).bfloat16()

    start = {n: p.detach().float() for n, p in base().named_parameters()}
    wide = by_hand(base(), job)
    found = fit(base(), job, tmp_path / "whole")
    fit(base(), job, tmp_path / "again", stop=7)
    again = fit(base(), job, tmp_path / "again")
    for n, p in wide.items():
        assert torch.equal(found[n], p.bfloat16())
        assert torch.equal(again[n], p.bfloat16())
    moved = torch.cat([(wide[n] != start[n]).flatten() for n in wide]).float().mean()
    lost = torch.cat([(wide[n].bfloat16() == start[n]).flatten() for n in wide]).float().mean()
    assert moved > 0.95
    assert lost > 0.5  # each of the steps alone: rounded into the weight they leave no trace yet


def test_copies_are_of_narrow_base_weights_alone(model: Any) -> None:
    """fp32 weights, and adapters of any dtype, are updated as they are."""
    with attached(model, "full") as handle:
        assert all(p is handle.trainable()[n] for n, p in Masters(model).params.items())
    model.bfloat16()
    with ad.attach(model, ad.LoRAConfig(r=4, dtype="bfloat16"), seed=0) as handle:
        assert all(p is handle.trainable()[n] for n, p in Masters(model).params.items())
    with attached(model, "full"):
        assert {p.dtype for p in Masters(model).params.values()} == {torch.float32}


def test_micro_batches_add_up_in_the_copies(model: Any) -> None:
    """a + b in fp32, where bf16 would round it to a."""
    model.bfloat16()
    with attached(model, "full") as handle:
        masters = Masters(model)
        for value in (1.0, 2.0**-10):
            for p in handle.trainable().values():
                p.grad = torch.full_like(p, value)
            masters.collect()
        assert all(p.grad is None for p in handle.trainable().values())
        assert {float(v) for p in masters.params.values() for v in p.grad.unique()} == {1 + 2.0**-10}
