"""Checks from shapes alone whether a job fits its model and this machine. Loads no weights and no data."""

from __future__ import annotations

import functools
import math

import torch
from torch import nn

import adapters as ad
from harness.config.job import Job
from harness.device import memory_of
from harness.errors import refuse
from harness.inputs.model_files import local_folder


def check_fit(job: Job, *, here: bool = True) -> str:
    """Raises BadInput for targets that match nothing, a rank that no layer allows, or more memory than the machine has.

    here: the job runs on this machine, so its memory matters. Returns why nothing was checked, or "".
    """
    folder = local_folder(job.model)
    model = None if job.model.gguf_file else _shapes(str(folder or job.model.id), job.model.revision)
    if model is None:
        return "targets not checked: the model's config is not on this machine"
    _check_adapter(job, model)
    if here:
        _check_memory(job, model)
    return ""


@functools.lru_cache(maxsize=4)
def _shapes(place: str, revision: str | None) -> nn.Module | None:
    """The model on the meta device; None if its config is not on this machine or cannot be loaded."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(place, revision=revision, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError, TypeError):
        return None
    return model


def _check_adapter(job: Job, model: nn.Module) -> None:
    try:
        ad.parameter_count(model, job.adapter)
    except ad.AdapterError as error:
        raise refuse(f"variant={job.variant}", str(error).rstrip(".")) from None
    most = max((min(m.in_features, m.out_features) for m in _linear(model)), default=0)
    rank = job.composed["rank"]
    if most and rank is not None and hasattr(job.adapter, "r") and rank > most:
        raise refuse("rank", "larger than any layer of the model", got=rank, expected=f"an integer <= {most}")


def _check_memory(job: Job, model: nn.Module) -> None:
    """By a lower bound: the weights, and the widest layer's output for 16 tokens per example, fewer than any has."""
    size = ad.DTYPES[job.model.dtype].itemsize
    weights = {"none": size, "8bit": 1.0, "4bit": 0.5}[job.quantization] * sum(p.numel() for p in model.parameters())
    rows = (job.micro_batch or job.batch_size) if job.trains else 0
    step = weights + rows * 16 * size * max((m.out_features for m in _linear(model)), default=0)
    limit = memory_of(job.device) or math.inf
    for key, got, needed in (("model.id", job.model.id, weights), ("batch_size", rows, step)):
        if needed > limit:
            what = f"needs at least {needed / 1e9:.0f} GB of memory, this machine has {limit / 1e9:.0f}"
            remedy = "train.micro_batch=<n> splits a batch without changing it." if key == "batch_size" else ""
            raise refuse(key, what, got=got, remedy=remedy)


def _linear(model: nn.Module) -> list[nn.Linear]:
    """Linear layers inside the blocks, so without the output embedding, whose logits are never whole."""
    return [m for n, m in model.named_modules() if isinstance(m, nn.Linear) and any(map(str.isdigit, n.split(".")))]
