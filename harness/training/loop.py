"""Fine-tuning: AdamW, cosine schedule with warm-up, clipping, resumable to the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.config.job import Job
from harness.data.batches import batches, collate
from harness.data.tokenize import Example
from harness.loss import label_loss_sum
from harness.training.checkpoint import Progress, checkpoint_interval, resume, save_checkpoint
from harness.training.interrupt import Interrupted
from harness.training.masters import Masters
from harness.training.metrics import Log, Metrics, Say


def train(
    model: Any,
    job: Job,
    examples: Sequence[Example],
    pad: int,
    folder: Path,
    say: Say,
    check: Callable[[], None],
    log: Log = lambda row: None,
) -> Progress:
    """Trains the adapter attached to `model` for `job.steps` steps; metrics and checkpoints go to `folder`.

    Resumes from `folder`/checkpoint where there is one; a damaged one is named and left out. check is called between
    steps and raises to interrupt, after a checkpoint. log gets every row of metrics.jsonl. Raises DivergedError.
    """
    masters = Masters(model)
    params = masters.params
    optimizer = torch.optim.AdamW(masters.groups(job.lr or 0.0, job.weight_decay))
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    progress = resume(folder, params, optimizer, say)
    masters.write_back()
    if progress.step:
        say(f"resuming at step {progress.step} of {job.steps}")
    order = list(batches(examples, steps=job.steps, batch_size=job.batch_size, seed=job.seed))
    metrics, every = Metrics(folder, job.steps, progress, say, log), checkpoint_interval(params, job.checkpoint_every)
    model.train()
    try:
        with metrics.bar:
            for step in range(progress.step, job.steps):
                check()
                factor = learning_rate_factor(step, job.steps, job.warmup)
                for group, base in zip(optimizer.param_groups, base_lrs, strict=True):
                    group["lr"] = base * factor
                batch = [examples[n] for n in order[step]]
                loss, norm = optimizer_step(model, optimizer, masters, job, step, batch, pad)
                metrics.add(loss, norm, factor * (job.lr or 0.0), sum(len(e.ids) for e in batch))
                if (step + 1) % every == 0 or step + 1 == job.steps:
                    metrics.flush()  # no checkpoint of NaN
                    save_checkpoint(folder, params, optimizer, progress)
    except Interrupted:
        metrics.flush()
        save_checkpoint(folder, params, optimizer, progress)
        raise
    finally:
        model.eval()
    return progress


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up over the first share of the steps, then a cosine to zero; step counts from 0."""
    warm = round(warmup * steps)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def optimizer_step(
    model: Any, optimizer: torch.optim.Optimizer, masters: Masters, job: Job, step: int, batch: list[Example], pad: int
) -> tuple[Tensor, Tensor]:
    """One step. Returns loss () in nats per label token and gradient norm () before clipping, still on the device."""
    torch.manual_seed((job.seed * 1_000_003 + step) % 2**63)  # dropout, where a base has it: the same when resumed
    label_tokens = sum(e.labels for e in batch)
    size = job.micro_batch or len(batch)
    total = torch.zeros((), device=job.device)
    for k in range(0, len(batch), size):
        ids, labels = collate(batch[k : k + size], pad, job.device)
        # Divided by the whole batch's labels, so that splitting a batch changes nothing but memory.
        loss = label_loss_sum(model, ids, labels) / label_tokens
        loss.backward()
        masters.collect()
        total = total + loss.detach()
    norm = torch.nn.utils.clip_grad_norm_(masters.params.values(), job.clip)
    optimizer.step()
    masters.write_back()
    optimizer.zero_grad(set_to_none=True)
    return total, norm
