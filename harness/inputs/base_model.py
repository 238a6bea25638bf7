"""The frozen base model and its tokenizer, plain or quantized, from a local folder, a GGUF file or the hub."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import importlib.util
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapters import DTYPES, forbid_cpu_packing
from harness.config.job import Job
from harness.config.schema import Model
from harness.device import choose_attention
from harness.errors import refuse
from harness.inputs.hub import commit_of, fetch, listing
from harness.paths import ROOT

SMALL = ["*.json", "*.txt", "*.model", "*.jinja"]  # configuration and tokenizer of a hub model
WEIGHTS = "model*.safetensors"  # not those of subfolders, nor a second copy in another format
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


def local_folder(spec: Model) -> Path | None:
    """The folder a model id names, or None for a hub id."""
    given = Path(spec.id).expanduser()
    for folder in (given, ROOT / given):
        if folder.is_dir():
            return folder
    return None


def place_of(spec: Model) -> str:
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


def check_files(spec: Model, names: list[str], place: str) -> None:
    """Raises BadInput where the files of `place`, a folder or hub id, make no model with a tokenizer."""
    if spec.gguf_file is not None:
        there = [n for n in names if n.endswith(".gguf")]
        if spec.gguf_file not in names:
            expected = f"one of {', '.join(sorted(there))}" if there else "a file of it; it has no GGUF file"
            raise refuse("model.gguf_file", f"no such file in {place}", got=spec.gguf_file, expected=expected)
        if importlib.util.find_spec("gguf") is None:
            remedy = "Install it (pip install gguf), or give a model in safetensors."
            raise refuse("model.gguf_file", "reading it needs the package gguf", got=spec.gguf_file, remedy=remedy)
        return
    if not any(n.endswith(".safetensors") for n in names):
        what, expected = "no weights in this folder", "*.safetensors or model.gguf_file"
        if pickled := [n for n in names if n.endswith((".bin", ".pt", ".pth"))]:
            what = f"only pickled weights ({pickled[0]}), which may run code when loaded"
        elif any(n.endswith(".gguf") for n in names):
            what, expected = "only GGUF weights", f"model.gguf_file={next(n for n in names if n.endswith('.gguf'))}"
        raise refuse("model.id", what, got=place, expected=expected)
    if not any(n in TOKENIZERS for n in names):  # without one, transformers makes an empty one up
        remedy = "Save it there: tokenizer.save_pretrained(<folder>)."
        raise refuse("model.id", "no tokenizer beside the weights", got=place, expected="tokenizer.json", remedy=remedy)


_loaded: dict[str, tuple[Any, Any]] = {}


def loaded(job: Job) -> tuple[Any, Any]:
    """Tokenizer and model. Successive jobs of a process share them: detach restores the model bit for bit."""
    key = f"{job.model} {job.quantization} {job.device}"
    if key not in _loaded:
        forget_models()
        _loaded[key] = (load_tokenizer(job.model), load_model(job))
    return _loaded[key]


def forget_models() -> None:
    """Frees their memory, but for models that an exception's traceback still holds: those go with the next call."""
    _loaded.clear()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def load_tokenizer(spec: Model) -> Any:
    from transformers import AutoTokenizer

    tokenizer = _from_pretrained(AutoTokenizer, spec, {})
    if tokenizer.eos_token_id is None:
        raise refuse("model.id", "the tokenizer has no EOS token", got=spec.id)
    return tokenizer


def load_model(job: Job) -> nn.Module:
    """The model in evaluation mode on the job's device. Raises BadInput with the remedy when it cannot be loaded."""
    from transformers import AutoModelForCausalLM

    choose_attention()
    options: dict[str, Any] = {"dtype": DTYPES[job.model.dtype]}
    spec = _unpacked(job.model, job.cache_dir / "dequantized")
    if job.quantization != "none":
        options |= {"quantization_config": quantization_config(job), "device_map": {"": job.device}}
    if spec.gguf_file is None:
        options["use_safetensors"] = True
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


def _from_pretrained(kind: Any, spec: Model, options: dict[str, Any]) -> Any:
    from safetensors import SafetensorError

    folder = local_folder(spec) or _hub_folder(spec)
    weights: dict[str, Any] = {}
    if spec.gguf_file is not None:
        weights["gguf_file"] = spec.gguf_file
        if "dtype" in options:  # the model: packed blocks would leave no nn.Linear to adapt
            from transformers import GgufConfig

            weights["quantization_config"] = GgufConfig(dequantize=True)
    try:
        loaded = kind.from_pretrained(str(folder), trust_remote_code=False, **weights, **options)
    except (OSError, ValueError, ImportError, RuntimeError, KeyError, SafetensorError, struct.error) as error:
        if "trust_remote_code" in str(error):
            expected = "an architecture that transformers has"
            raise refuse(
                "model.id", "it needs code of its own, which is never run", got=spec.id, expected=expected
            ) from None
        reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
        remedy = "Give another model, or mend the folder: model.id=<hub id or folder>."
        raise refuse("model.id", f"cannot load ({reason})", got=spec.id, remedy=remedy) from None
    if local_folder(spec) is None and hasattr(loaded, "config"):
        loaded.config._name_or_path = spec.id  # what adapter files name, and not a folder of this machine's cache
    return loaded


def _hub_folder(spec: Model) -> Path:
    """Folder of the hub's cache with the model at its commit; its small files are looked at before its weights come."""
    place = place_of(spec)
    small = [spec.gguf_file] if spec.gguf_file is not None else SMALL
    folder = fetch("model", place, spec.revision, small, "model")
    commit = commit_of("model", place, spec.revision, "model")
    names = listing("model", place, commit) or [f.name for f in folder.glob("*")]
    check_files(spec, names, place)
    return folder if spec.gguf_file is not None else fetch("model", place, spec.revision, [*SMALL, WEIGHTS], "model")


def _unpacked(spec: Model, cache: Path) -> Model:
    """A GGUF model as a Hugging Face folder below `cache`, with the same values; other models as they are.

    transformers quantizes nothing that comes from GGUF, and unpacking takes several times as long as loading.
    """
    if spec.gguf_file is None:
        return spec
    folder = local_folder(spec) or _hub_folder(spec)
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
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        yield
    finally:
        if enabled:
            model.gradient_checkpointing_disable()
