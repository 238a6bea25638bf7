"""Checks from shapes alone whether a job fits its model and this machine. Loads no weights and no data."""

from __future__ import annotations

import functools
import os

import torch
from torch import nn

import adapters as ad
from harness.config.job import Job
from harness.errors import refuse
from harness.inputs.base_model import local_folder


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
    most = max(min(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear))
    rank = job.composed["rank"]
    if rank is not None and hasattr(job.adapter, "r") and rank > most:
        raise refuse("rank", "larger than any layer of the model", got=rank, expected=f"an integer <= {most}")


def _check_memory(job: Job, model: nn.Module) -> None:
    """A lower bound: the weights, and what autograd keeps of 16 tokens per example, fewer than any prompt has."""
    width = {"none": ad.DTYPES[job.model.dtype].itemsize, "8bit": 1.0, "4bit": 0.5}[job.quantization]
    weights = width * sum(p.numel() for p in model.parameters())
    rows = (job.micro_batch or job.batch_size) if job.trains else 0
    outputs = sum(m.out_features for name, m in model.named_modules() if _in_a_block(name, m))
    batch = rows * 16 * outputs * ad.DTYPES[job.model.dtype].itemsize
    limit = _memory(job.device)
    if weights > limit:
        raise refuse(
            "model.id",
            f"needs at least {weights / 1e9:.0f} GB of memory, this machine has {limit / 1e9:.0f}",
            got=job.model.id,
        )
    if weights + batch > limit and not job.gradient_checkpointing:
        what = f"a step needs at least {(weights + batch) / 1e9:.0f} GB of memory, this machine has {limit / 1e9:.0f}"
        raise refuse("batch_size", what, got=rows, remedy="train.micro_batch=<n> splits a batch without changing it.")


def _in_a_block(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and any(part.isdigit() for part in name.split("."))


def _memory(device: str) -> int:
    """Bytes of the GPU, or of this machine."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
