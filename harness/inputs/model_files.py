"""The files of a base model: where they are, which ones loading reads, and which are refused."""

from __future__ import annotations

import importlib.util
import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from harness.config.schema import Model
from harness.errors import reason_of, refuse
from harness.inputs.hub import commit_of, fetch, listing
from harness.paths import ROOT

SMALL = ["*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.spm"]  # configuration and tokenizer
WEIGHTS = "model*.safetensors"  # not those of subfolders, nor a second copy in another format
NOT_READ = ("recipe.json", "README*", "LICENSE*", "NOTICE*", "USE_POLICY*", "requirements.txt")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
ADAPTERS = ("adapter_config.json", "adapter.safetensors", "adapter_model.safetensors", "adapter_model.bin")


def local_folder(spec: Model) -> Path | None:
    """The folder a model id names, or None for a hub id."""
    path = Path(spec.id).expanduser()
    return next((folder for folder in (path, ROOT / path) if folder.is_dir()), None)


def place_of(spec: Model) -> str:
    """Folder or hub id to load from. Raises BadInput for a path that is not there."""
    folder = local_folder(spec)
    if folder is not None:
        return str(folder)
    if spec.id.startswith((".", "/", "~", "models/")) or spec.id.count("/") > 1:
        remedy = f"Run {spec.setup} first." if spec.setup else ""
        expected = "a Hugging Face folder or a hub id"
        raise refuse("model.id", "no such folder", got=spec.id, expected=expected, remedy=remedy)
    return spec.id


def folder_of(spec: Model) -> Path:
    """The folder to load from; a hub model is downloaded first. Raises BadInput unless it is a base model."""
    folder = local_folder(spec) or _hub_folder(spec)
    check_indices(folder, spec.id)
    return folder


def _hub_folder(spec: Model) -> Path:
    """Folder of the hub's cache with the model at its commit; its small files are checked before its weights come."""
    place = place_of(spec)
    small = SMALL if spec.gguf_file is None else [spec.gguf_file]
    folder = fetch("model", place, spec.revision, small, "model")
    commit = commit_of("model", place, spec.revision, "model")
    names = listing("model", place, commit) or [f.name for f in folder.glob("*")]
    check_files(spec, names, place)
    return folder if spec.gguf_file is not None else fetch("model", place, spec.revision, [*SMALL, WEIGHTS], "model")


def files_read(folder: Path, spec: Model) -> list[Path]:
    """Every file of a local folder that loading can read, by name: weights, configuration, tokenizer, indices."""
    patterns = [spec.gguf_file or "*.safetensors", *SMALL]
    files = [f for f in folder.iterdir() if f.is_file() and any(fnmatch(f.name, p) for p in patterns)]
    return sorted(f for f in files if not any(fnmatch(f.name, p) for p in NOT_READ))


def check_files(spec: Model, names: list[str], place: str) -> None:
    """Raises BadInput unless the files of `place`, a folder or hub id, are a base model with a tokenizer."""
    if adapters := [n for n in ADAPTERS if n in names]:
        what = f"{adapters[0]} makes this an adapter's folder, and transformers would load the adapter too"
        remedy = "Give the base model's own folder, or merge the adapter into it first."
        raise refuse("model.id", what, got=place, expected="a base model", remedy=remedy)
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


def check_indices(folder: Path, place: str) -> None:
    """Raises BadInput for a weights index that points outside the folder: no hash covers such a file."""
    for file in sorted(folder.glob("*.index.json")):
        shards = _json(file, place).get("weight_map")
        for shard in shards.values() if isinstance(shards, dict) else [shards]:
            if not isinstance(shard, str) or Path(shard).name != shard:
                what, remedy = f"{file.name} names weights outside the folder", "Put them beside it."
                raise refuse("model.id", what, got=shard, expected=f"a file of {place}", remedy=remedy)


def stored_quantization(folder: Path, place: str) -> str:
    """none, 8bit or 4bit: how the weights of a folder are stored. Raises BadInput for other methods (GPTQ, AWQ, …)."""
    stored = _json(folder / "config.json", place).get("quantization_config")
    if stored is None:
        return "none"
    stored = stored if isinstance(stored, dict) else {}
    kinds = [kind for kind in ("4bit", "8bit") if stored.get(f"load_in_{kind}")]
    if not kinds or stored.get("quant_method") not in (None, "bitsandbytes"):
        what, expected = "its weights are stored quantized by another method", "unquantized weights, or bitsandbytes"
        got = stored.get("quant_method")
        raise refuse("model.id", what, got=got, expected=expected, remedy="Give the unquantized model.")
    return kinds[0]


def _json(file: Path, place: str) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise refuse("model.id", f"cannot read {file.name} ({reason_of(error)})", got=place) from None
    return value if isinstance(value, dict) else {}
