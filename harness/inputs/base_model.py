"""The frozen base model and its tokenizer, plain or quantized, from a local folder, a GGUF file or the hub."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapters import DTYPES, forbid_cpu_packing
from harness.config.job import Job
from harness.config.schema import Model
from harness.device import choose_attention
from harness.errors import reason_of, refuse
from harness.files import cached_folder
from harness.hashing import file_sha256
from harness.inputs.model_files import WEIGHTS, folder_of, local_folder, stored_quantization

_loaded: dict[str, tuple[Any, Any]] = {}


def loaded(job: Job) -> tuple[Any, Any]:
    """Tokenizer and model. Successive jobs of a process share them: detach restores the model bit for bit."""
    key = f"{job.model} {job.quantization} {job.device}"
    if key not in _loaded:
        forget_models()
        _loaded[key] = (load_tokenizer(job.model), load_model(job))
    return _loaded[key]


def forget_models() -> None:
    """Frees their memory, except of models that an exception's traceback still holds; the next call frees those."""
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
    folder = folder_of(spec)
    stored = stored_quantization(folder, job.model.id)
    if stored not in ("none", job.quantization):
        what, remedy = f"{job.model.id} is stored in {stored}", f"Type quantization={stored}."
        raise refuse("quantization", what, got=job.quantization, expected=stored, remedy=remedy)
    if job.quantization != "none":
        options["device_map"] = {"": job.device}
    if stored != job.quantization:
        options["quantization_config"] = quantization_config(job)
    model = _from_pretrained(AutoModelForCausalLM, spec, options | {"use_safetensors": True})
    if job.quantization == "none":
        model = model.to(job.device)
    else:
        _refuse_non_finite(_stored_tensors(folder), job.model)  # quantizing may hide them
    _refuse_non_finite(model.state_dict().items(), job.model)
    forbid_cpu_packing(model)  # before anybody's first grad-free forward
    return model.eval()  # type: ignore[no-any-return]


def _stored_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    for file in sorted(folder.glob(WEIGHTS)):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118, not a dict
                yield name, tensors.get_tensor(name)


def _refuse_non_finite(tensors: Iterable[tuple[str, Any]], spec: Model) -> None:
    for name, value in tensors:
        if isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
            remedy = "Restore the file, or give another model.dtype where the numbers are too large for this one."
            raise refuse("model.id", f"tensor {name} has NaN or Inf", got=spec.id, remedy=remedy)


def quantization_config(job: Job) -> Any:
    """bitsandbytes: NF4 with double quantization off (QLoRA's data type), or LLM.int8 with its usual threshold."""
    from transformers import BitsAndBytesConfig

    if job.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    dtype = DTYPES[job.model.dtype]
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _from_pretrained(kind: Any, spec: Model, options: dict[str, Any]) -> Any:
    """A tokenizer, or (with `dtype` among the options) a model whose tensors all come from the file."""
    folder, is_model = folder_of(spec), "dtype" in options
    if spec.gguf_file is not None:
        from transformers import GgufConfig

        unpack = {"quantization_config": GgufConfig(dequantize=True)}  # packed, no nn.Linear would be left to adapt
        options = options | {"gguf_file": spec.gguf_file} | (unpack if is_model else {})
    if is_model:
        options = options | {"output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        loaded = kind.from_pretrained(str(folder), trust_remote_code=False, **options)
    except Exception as error:  # noqa: BLE001 (tokenizers raises bare ones; the remedy is the same for all)
        if "trust_remote_code" in str(error):
            what, expected = "it needs code of its own, which is never run", "an architecture that transformers has"
            raise refuse("model.id", what, got=spec.id, expected=expected) from None
        remedy = "Give another model, or restore the folder: model.id=<hub id or folder>."
        raise refuse("model.id", f"cannot load ({reason_of(error)})", got=spec.id, remedy=remedy) from None
    if not is_model:
        return loaded
    model, info = loaded
    _refuse_incomplete(info, spec)
    if local_folder(spec) is None:
        model.config._name_or_path = spec.id  # what adapter files name, and not a folder of this machine's cache
    return model


def _refuse_incomplete(info: dict[str, Any], spec: Model) -> None:
    """transformers only warns, and fills missing tensors with random numbers. Tied weights do not count as missing."""
    kinds = {"missing": "missing", "mismatched": "of another shape", "unexpected": "not in this architecture"}
    for kind, what in kinds.items():
        if names := sorted(str(n[0] if isinstance(n, tuple) else n) for n in info[f"{kind}_keys"]):
            what = f"tensor {names[0]}{f' (and {len(names) - 1} more)' if len(names) > 1 else ''} is {what}"
            raise refuse("model.id", what, got=spec.id, remedy="Give weights that belong to its config.json.")


def _unpacked(spec: Model, cache: Path) -> Model:
    """A GGUF model as a Hugging Face folder below `cache`, with the same values; other models as they are.

    transformers quantizes nothing that comes from GGUF, and unpacking takes several times as long as loading.
    """
    if spec.gguf_file is None:
        return spec
    from transformers import AutoModelForCausalLM

    def unpack(folder: Path) -> None:
        _from_pretrained(AutoModelForCausalLM, spec, {"dtype": DTYPES[spec.dtype]}).save_pretrained(folder)

    key = f"{file_sha256(folder_of(spec) / spec.gguf_file)[:16]}-{spec.dtype}"
    return dataclasses.replace(spec, id=str(cached_folder(cache, key, unpack)), gguf_file=None)


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
