"""The meters of one run: memory, cost, forgetting and health, read before, while and after an adapter is attached."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch

import adapters as ad
from harness.config.job import Job
from harness.data.batches import longest_batch
from harness.data.tokenize import Example
from harness.evaluation.forgetting import nats_per_token, pinned_texts, texts_sha256
from harness.inputs.base_model import gradient_checkpointing
from harness.loss import label_loss_sum
from harness.measure.cost import MemoryMeter, macs_per_token, pass_times
from harness.measure.health import Health
from harness.training.metrics import DivergedError


class Meters:
    """Create one before attaching. text: some real text, for the check that attaching changes no logit."""

    def __init__(self, model: Any, tokenizer: Any, job: Job, text: str) -> None:
        self.model, self.tokenizer, self.job = model, tokenizer, job
        self.memory = MemoryMeter(job.device)
        self.phase = self.memory.phase  # measures the peak memory of a block
        self.texts = pinned_texts(job.forgetting_text)
        self.nats_off = self._nats()
        self.base_macs = macs_per_token(model, job.device)
        self.health = Health(model, torch.tensor([tokenizer(text)["input_ids"]], device=job.device))
        self.cost: dict[str, float] = {}

    def attached(self, handle: ad.Attachment, began: float) -> dict[str, Any]:
        """What the record says of an adapter whose attaching began at `time.perf_counter()` = began."""
        self.cost["attach_seconds"] = time.perf_counter() - began
        self.health.attached()
        self.cost["added_macs_per_token"] = macs_per_token(self.model, self.job.device) - self.base_macs
        return {
            "trainable_params": sum(p.numel() for p in handle.trainable().values()),
            "clamped": handle.clamped,
            "calibration_sha256": handle.calibration_sha256,
        }

    def trained(self, examples: Sequence[Example], pad: int) -> dict[str, Any]:
        """A record's `health` and `forgetting`; the passes are timed on the longest of the examples.

        Raises DivergedError where the adapted model gives no finite loss on the pinned text.
        """
        job, health = self.job, self.health.report(self.job.steps)
        if job.trains:
            size = job.micro_batch or job.batch_size
            longest = longest_batch(examples, size, pad, job.device)
            with gradient_checkpointing(self.model.train(), enabled=job.gradient_checkpointing):
                self.cost |= pass_times(lambda: label_loss_sum(self.model, *longest), job.device)
            self.model.eval().zero_grad(set_to_none=True)
        nats = self._nats() - self.nats_off
        if not math.isfinite(nats):
            raise DivergedError(f"loss on the forgetting text is {nats}")
        forgetting = {"nats": nats, "nats_off": self.nats_off, "texts_sha256": texts_sha256(self.texts)}
        return {"health": health, "forgetting": forgetting}

    def _nats(self) -> float:
        return nats_per_token(self.model, self.tokenizer, self.texts, self.job.device)
