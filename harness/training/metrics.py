"""Metrics of training: metrics.jsonl, the progress bar, and the check for NaN."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from harness.training.checkpoint import Progress

Say = Callable[[str], None]
Log = Callable[[dict[str, Any]], None]  # takes a row of metrics.jsonl


class DivergedError(RuntimeError):
    """Loss or gradient became NaN or Inf: an outcome of the run, not a fault of the program."""


class Metrics:
    """Collects each step's loss and gradient norm on the device, and fetches them every few steps."""

    EVERY = 10  # steps between the device reads that logging and the NaN check need

    def __init__(self, folder: Path, steps: int, progress: Progress, say: Say, log: Log) -> None:
        self.file, self.steps, self.progress, self.say, self.log = folder / "metrics.jsonl", steps, progress, say, log
        self._pending: list[tuple[Tensor, Tensor, float, int]] = []
        self._clock = time.perf_counter()
        # Drawn on a terminal only (disable=None); elsewhere `_show` says a line five times a run.
        self.bar = tqdm(total=steps, initial=progress.step, unit="step", disable=None, dynamic_ncols=True)

    def add(self, loss: Tensor, norm: Tensor, lr: float, tokens: int) -> None:
        """One step: loss () in nats per label token, gradient norm () before clipping; neither is read here."""
        self._pending.append((loss, norm, lr, tokens))
        self.progress.step += 1
        if self.progress.step % self.EVERY == 0 or self.progress.step == self.steps:
            self.flush()
            self._show()

    def flush(self) -> None:
        """Fetches pending numbers and appends them to metrics.jsonl. Raises DivergedError on NaN or Inf."""
        if not self._pending:
            return
        p = self.progress
        numbers = torch.stack([torch.stack((loss.float(), norm.float())) for loss, norm, _, _ in self._pending])
        p.seconds += time.perf_counter() - self._clock
        self._clock = time.perf_counter()
        with open(self.file, "a") as file:
            for (_, _, lr, tokens), (loss, norm) in zip(self._pending, numbers.tolist(), strict=True):
                p.losses.append(loss)
                p.tokens += tokens
                row = {"step": len(p.losses), "loss": loss, "grad_norm": norm, "lr": lr, "tokens": tokens}
                row["seconds"] = round(p.seconds, 3)
                file.write(json.dumps(row) + "\n")
                self.log(row)
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    raise DivergedError(f"loss {loss}, gradient norm {norm} at step {len(p.losses)}")
        self._pending.clear()

    def _show(self) -> None:
        p = self.progress
        speed = p.tokens / max(p.seconds, 1e-9)
        loss = sum(p.losses[-self.EVERY :]) / len(p.losses[-self.EVERY :])
        self.bar.n = p.step
        self.bar.set_postfix_str(f"loss {loss:.4f}, {speed:,.0f} tokens/s")
        fifth = max(self.EVERY, self.steps // 5 // self.EVERY * self.EVERY)
        if self.bar.disable and p.step % fifth == 0:
            left = (self.steps - p.step) * p.seconds / p.step
            self.say(f"step {p.step}/{self.steps}  loss {loss:.4f}  {speed:,.0f} tokens/s  {left:.0f} s left")
