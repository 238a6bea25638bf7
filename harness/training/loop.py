"""Fine-tuning: AdamW, cosine schedule with warm-up, clipping, resumable to the same numbers."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

import adapters as ad
from adapters._bases import atomic_file
from harness.config.job import Job
from harness.data.batches import batches, collate
from harness.data.tokenize import Example
from harness.loss import label_loss_sum
from harness.training.interrupt import Interrupted

LOG_EVERY = 10  # steps between the device reads that logging and the NaN check need


class DivergedError(RuntimeError):
    """Loss or gradient became NaN or Inf: an outcome of the run, not a fault of the program."""


@dataclass(frozen=True)
class TrainResult:
    losses: list[float]  # mean nats per label token of each step's batch, before the step
    tokens: int  # real tokens in all batches (prompt and response, no padding)
    seconds: float


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up over the first share of the steps, then a cosine to zero; step counts from 0."""
    warm = round(warmup * steps)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def train(
    model: Any,
    job: Job,
    examples: Sequence[Example],
    pad: int,
    folder: Path,
    say: Callable[[str], None],
    check: Callable[[], None],
    log: Callable[[dict[str, Any]], None] = lambda row: None,
) -> TrainResult:
    """Trains what is attached to `model` for `job.steps` steps; metrics and checkpoints go to `folder`.

    Continues from `folder`/checkpoint when there is one. check is called between steps and raises to interrupt; a
    checkpoint is written first. log is given every row of metrics.jsonl. Raises DivergedError on NaN or Inf.
    """
    handle = ad.attachment(model)
    optimizer = torch.optim.AdamW(ad.parameter_groups(model, lr=job.lr or 0.0, weight_decay=job.weight_decay))
    state = Loop(job, handle.trainable(), optimizer, folder, log)
    start = state.resume()
    if start:
        say(f"resuming at step {start} of {job.steps}")
    order = list(batches(examples, steps=job.steps, batch_size=job.batch_size, seed=job.seed))
    model.train()
    progress = tqdm(total=job.steps, initial=start, unit="step", disable=None, file=sys.stderr, dynamic_ncols=True)
    try:
        with progress:
            for step in range(start, job.steps):
                check()
                batch = [examples[n] for n in order[step]]
                state.step(model, step, batch, pad)
                if (step + 1) % LOG_EVERY == 0 or step + 1 == job.steps:
                    state.flush()
                    state.show(progress, step + 1, say)
                if (step + 1) % job.checkpoint_every == 0 or step + 1 == job.steps:
                    state.save(step + 1)
    except Interrupted:
        state.save(state.done)
        raise
    finally:
        model.eval()
    return TrainResult(state.losses, state.tokens, state.seconds)


class Loop:
    """State of one training run: what a checkpoint holds, and the numbers not yet fetched from the device."""

    def __init__(
        self,
        job: Job,
        params: dict[str, Any],
        optimizer: torch.optim.Optimizer,
        folder: Path,
        log: Callable[[dict[str, Any]], None] = lambda row: None,
    ) -> None:
        self.job, self.params, self.optimizer, self.folder, self.log = job, params, optimizer, folder, log
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.losses: list[float] = []
        self.tokens, self.seconds, self.done = 0, 0.0, 0
        self._pending: list[tuple[int, Tensor, Tensor, float, int]] = []
        self._clock = time.perf_counter()

    def step(self, model: Any, step: int, batch: list[Example], pad: int) -> None:
        """One optimizer step; leaves loss and gradient norm on the device."""
        job = self.job
        torch.manual_seed((job.seed * 1_000_003 + step) % 2**63)  # dropout, where a base has it: the same when resumed
        factor = learning_rate_factor(step, job.steps, job.warmup)
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * factor
        label_tokens = sum(len(e.ids) - e.prompt for e in batch)
        size = job.micro_batch or len(batch)
        total: Tensor | float = 0.0
        for k in range(0, len(batch), size):
            ids, labels = collate(batch[k : k + size], pad, job.device)
            # Divided by the whole batch's labels, so that splitting a batch changes nothing but memory.
            loss = label_loss_sum(model, ids, labels) / label_tokens
            loss.backward()
            total = total + loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(list(self.params.values()), job.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        tokens = sum(len(e.ids) for e in batch)
        assert isinstance(total, Tensor)
        self._pending.append((step, total, norm, factor * (job.lr or 0.0), tokens))
        self.done = step + 1

    def flush(self) -> None:
        """Fetches pending numbers and appends them to metrics.jsonl. Raises DivergedError on NaN or Inf."""
        if not self._pending:
            return
        pairs = [torch.stack((loss.float(), norm.float())) for _, loss, norm, _, _ in self._pending]
        numbers = torch.stack(pairs).tolist()
        self.seconds += time.perf_counter() - self._clock
        self._clock = time.perf_counter()
        with open(self.folder / "metrics.jsonl", "a") as file:
            for (step, _, _, lr, tokens), (loss, norm) in zip(self._pending, numbers, strict=True):
                self.losses.append(loss)
                self.tokens += tokens
                row = {"step": step + 1, "loss": loss, "grad_norm": norm, "lr": lr, "tokens": tokens}
                row["seconds"] = round(self.seconds, 3)
                file.write(json.dumps(row) + "\n")
                self.log(row)
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    raise DivergedError(f"loss {loss}, gradient norm {norm} at step {step + 1}")
        self._pending.clear()

    def show(self, progress: Any, step: int, say: Callable[[str], None]) -> None:
        rate = self.tokens / max(self.seconds, 1e-9)
        loss = sum(self.losses[-LOG_EVERY:]) / len(self.losses[-LOG_EVERY:])
        progress.n = step
        progress.set_postfix_str(f"loss {loss:.4f}, {rate:,.0f} tokens/s")
        left = (self.job.steps - step) * self.seconds / step
        if progress.disable and step % max(LOG_EVERY, self.job.steps // 5 // LOG_EVERY * LOG_EVERY) == 0:
            say(f"step {step}/{self.job.steps}  loss {loss:.4f}  {rate:,.0f} tokens/s  {left:.0f} s left")

    # -- checkpoints ---------------------------------------------------------------------------------------------------
    def save(self, step: int) -> None:
        """Parameters, optimizer moments and the loop's numbers, in one file. Raises DivergedError instead of NaN."""
        self.flush()  # the numbers must be those of all steps up to this one
        folder = self.folder / "checkpoint"
        folder.mkdir(exist_ok=True)
        tensors = {f"param.{n}": p.detach().cpu().contiguous() for n, p in self.params.items()}
        for n, p in self.params.items():
            for key, value in self.optimizer.state.get(p, {}).items():
                tensors[f"{key}.{n}"] = torch.as_tensor(value).detach().cpu().contiguous()
        numbers = {"losses": self.losses, "tokens": self.tokens, "seconds": self.seconds}
        # One file: a kill between two files would pair parameters of one step with numbers of another.
        with atomic_file(folder / "state.safetensors") as path:
            save_file(tensors, path, metadata={"step": str(step), "numbers": json.dumps(numbers)})

    def resume(self) -> int:
        """Restores the newest checkpoint, trims metrics.jsonl to it, and returns the step to go on from (0: none)."""
        path, metrics = self.folder / "checkpoint" / "state.safetensors", self.folder / "metrics.jsonl"
        if not path.exists():
            metrics.unlink(missing_ok=True)
            return 0
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        tensors, numbers = load_file(path), json.loads(metadata["numbers"])
        with torch.no_grad():
            for n, p in self.params.items():
                p.copy_(tensors[f"param.{n}"])
                keys = [k.split(".", 1)[0] for k in tensors if k.split(".", 1)[1] == n and not k.startswith("param.")]
                state = {k: tensors[f"{k}.{n}"] for k in keys}
                self.optimizer.state[p] = {k: v if k == "step" else v.to(p.device) for k, v in state.items()}
        step = int(metadata["step"])
        self.losses, self.tokens, self.seconds = numbers["losses"], numbers["tokens"], numbers["seconds"]
        self.done = step
        lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
        metrics.write_text("".join(lines[:step]))
        self._clock = time.perf_counter()
        return step
