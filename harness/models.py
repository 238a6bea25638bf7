"""The frozen base model and its tokenizer, plain or quantized, from a local folder, a GGUF file or the hub."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapters._contract import DTYPES
from adapters._weights import forbid_cpu_packing
from harness.bad_input import refuse
from harness.job import Job, ModelSpec
from harness.schema import ROOT


def local_folder(spec: ModelSpec) -> Path | None:
    """The folder a model id names, or None for a hub id."""
    given = Path(spec.id).expanduser()
    for folder in (given, ROOT / given):
        if folder.is_dir():
            return folder
    return None


def place_of(spec: ModelSpec) -> str:
    """Folder or hub id to load from. Raises BadInput for a path that is not there."""
    folder = local_folder(spec)
    if folder is not None:
        return str(folder)
    looks_like_path = spec.id.startswith((".", "/", "~", "models/")) or spec.id.count("/") > 1
    if looks_like_path:
        remedy = f"Run {spec.setup} first." if spec.setup else ""
        raise refuse(
            "model.id", "no such folder", got=spec.id, expected="a Hugging Face folder or a hub id", remedy=remedy
        )
    return spec.id


def load_tokenizer(spec: ModelSpec) -> Any:
    from transformers import AutoTokenizer

    tokenizer = _from_pretrained(AutoTokenizer, spec, {})
    if tokenizer.eos_token_id is None:
        raise refuse("model.id", "the tokenizer has no EOS token", got=spec.id)
    return tokenizer


def load_model(job: Job) -> nn.Module:
    """The model in evaluation mode on the job's device. Raises BadInput with the remedy when it cannot be loaded."""
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": DTYPES[job.model.dtype]}
    spec = _unpacked(job.model, job.cache_dir / "dequantized")
    if job.quantization != "none":
        options |= {"quantization_config": quantization_config(job), "device_map": {"": job.device}}
    model = _from_pretrained(AutoModelForCausalLM, spec, options)
    if job.quantization == "none":
        model = model.to(job.device)
    forbid_cpu_packing(model)  # before anybody's first grad-free forward
    return model.eval()


def quantization_config(job: Job) -> Any:
    """bitsandbytes: NF4 with double quantization off (QLoRA's data type), or LLM.int8 with its usual threshold."""
    from transformers import BitsAndBytesConfig

    if job.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    dtype = DTYPES[job.model.dtype]
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _from_pretrained(kind: Any, spec: ModelSpec, options: dict[str, Any]) -> Any:
    place = place_of(spec)
    if local_folder(spec) is None:
        options = {**options, "revision": spec.revision}
    if spec.gguf_file is not None:
        options = {**options, "gguf_file": spec.gguf_file}
        if "dtype" in options:  # the model: packed blocks would leave no nn.Linear to adapt
            from transformers import GgufConfig

            options["quantization_config"] = GgufConfig(dequantize=True)
    try:
        return kind.from_pretrained(place, trust_remote_code=False, **options)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        offline = " HF_HUB_OFFLINE is set." if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        remedy = (
            "Check the id and the network, log in for a gated model, or give a folder: model.id=<folder>." + offline
        )
        raise refuse("model.id", f"cannot load ({reason})", got=spec.id, remedy=remedy) from None


def _unpacked(spec: ModelSpec, cache: Path) -> ModelSpec:
    """A GGUF model as a Hugging Face folder below `cache`, with the same values; other models as they are.

    transformers quantizes nothing that comes from GGUF, and unpacking takes several times as long as loading.
    """
    folder = local_folder(spec)
    if spec.gguf_file is None or folder is None:
        return spec
    from transformers import AutoModelForCausalLM

    with open(folder / spec.gguf_file, "rb") as file:
        key = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    place = cache / f"{key}-{spec.dtype}"
    if not place.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            dense = _from_pretrained(AutoModelForCausalLM, spec, {"dtype": DTYPES[spec.dtype]})
            dense.save_pretrained(Path(scratch) / "model")
            with suppress(OSError):  # another process was quicker
                (Path(scratch) / "model").rename(place)
    return dataclasses.replace(spec, id=str(place), gguf_file=None)


@contextmanager
def gradient_checkpointing(model: Any, *, enabled: bool) -> Iterator[None]:
    """Recomputes each block in the backward pass: a third more time, activations of one block at a time."""
    if enabled:
        # Not reentrant: the reentrant kind drops the adapters' gradients when the embeddings are frozen.
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    try:
        yield
    finally:
        if enabled:
            model.activation_checkpointing_disable()


def synchronize(device: str | torch.device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
