"""What was loaded is what the record says: damaged, foreign and quantized weights, and all files that loading reads."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.config.schema import Source
from harness.errors import BadInput
from harness.inputs.base_model import load_model, load_tokenizer
from harness.inputs.fingerprints import model_fingerprint, source_fingerprint
from harness.records.plan import plan
from tests.conftest import make_model

Q = "model.layers.1.self_attn.q_proj.weight"
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_dir, tmp_path / "base"))


def rewrite(folder: Path, edit: Callable[[Tensors], Tensors]) -> None:
    save_file(edit(load_file(folder / "model.safetensors")), folder / "model.safetensors", metadata={"format": "pt"})


def refusal(job: Any) -> str:
    def load() -> None:
        plan(job)
        load_tokenizer(job.model)
        load_model(job)

    with pytest.raises(BadInput) as stopped:
        load()
    return str(stopped.value.code)


# -- weights ----------------------------------------------------------------------------------------------------------
EDITS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "missing": (lambda t: {n: v for n, v in t.items() if n != Q}, f"tensor {Q} is missing"),
    "renamed": (
        lambda t: {n.replace("q_proj", "q"): v for n, v in t.items()},
        "0.self_attn.q_proj.weight (and 1 more) is",
    ),
    "extra": (lambda t: t | {"model.layers.9.x": t[Q].clone()}, "tensor model.layers.9.x is not in this architecture"),
    "cut": (lambda t: t | {Q: t[Q][:-1].clone()}, f"tensor {Q} is of another shape"),
    "nan": (lambda t: t | {Q: t[Q].index_fill(0, torch.tensor(3), torch.nan)}, f"tensor {Q} has NaN or Inf"),
    "inf": (lambda t: t | {Q: t[Q].index_fill(1, torch.tensor(5), -torch.inf)}, f"tensor {Q} has NaN or Inf"),
}


@pytest.mark.parametrize("kind", EDITS)
def test_a_damaged_base_is_refused_by_tensor(small_job: Any, folder: Path, kind: str) -> None:
    """Where transformers would fill in random numbers, or train on NaN; quantizing hides neither."""
    edit, message = EDITS[kind]
    rewrite(folder, edit)
    for quantization in ("none", "4bit", "8bit") if kind in ("missing", "nan") else ("none",):
        line = refusal(small_job(f"model.id={folder}", f"quantization={quantization}"))
        assert line.startswith("model.id: tensor ")
        assert message in line


def test_numbers_too_large_for_the_dtype_are_refused(small_job: Any, folder: Path) -> None:
    rewrite(folder, lambda t: t | {Q: t[Q].index_fill(0, torch.tensor(0), 1e6)})
    load_model(small_job(f"model.id={folder}"))
    assert f"tensor {Q} has NaN or Inf" in refusal(small_job(f"model.id={folder}", "model.dtype=float16"))


def test_tied_weights_are_not_missing(small_job: Any, folder: Path) -> None:
    """The head is stored or not; without tying it is needed."""
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    load_model(small_job(f"model.id={folder}"))
    rewrite(folder, lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone()})
    load_model(small_job(f"model.id={folder}"))
    rewrite(folder, lambda t: {n: v for n, v in t.items() if n != "lm_head.weight"})
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": False}))
    assert "tensor lm_head.weight is missing" in refusal(small_job(f"model.id={folder}"))


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter.safetensors"])
def test_an_adapter_is_no_base(small_job: Any, folder: Path, name: str) -> None:
    """Beside the weights or alone: transformers loads it in silence where peft is installed."""
    (folder / name).write_text("{}")
    for _ in range(2):
        assert f"model.id: {name} makes this an adapter's folder" in refusal(small_job(f"model.id={folder}"))
        (folder / "model.safetensors").unlink(missing_ok=True)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/tmp/model.safetensors", "sub/model.safetensors", 7])
def test_an_index_stays_in_its_folder(small_job: Any, folder: Path, shard: Any) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = folder / "model.safetensors.index.json"
    names = load_file(folder / "model-1.safetensors")
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "model-1.safetensors")}))
    load_model(small_job(f"model.id={folder}"))
    index.write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "model-1.safetensors") | {Q: shard}})
    )
    assert "names weights outside the folder" in refusal(small_job(f"model.id={folder}"))


@pytest.mark.parametrize("stored", ["4bit", "8bit"])
def test_a_quantized_checkpoint_runs_under_its_own_name(small_job: Any, folder: Path, stored: str) -> None:
    load_model(small_job(f"model.id={folder}", f"quantization={stored}")).save_pretrained(folder)
    kinds = {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}
    model: Any = load_model(small_job(f"model.id={folder}", f"quantization={stored}"))
    assert type(model.model.layers[0].mlp.up_proj).__name__ == kinds[stored]
    for other in {"none", "4bit", "8bit"} - {stored}:
        line = refusal(small_job(f"model.id={folder}", f"quantization={other}"))
        assert line.endswith(f"is stored in {stored}, got {other!r}; expected {stored}. Type quantization={stored}.")
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {"quant_method": "gptq"}}))
    assert "stored quantized by another method, got 'gptq'" in refusal(small_job(f"model.id={folder}"))


def test_a_cut_file_is_refused_however_it_is_loaded(small_job: Any, folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 5000)
    for quantization in ("none", "4bit", "8bit"):
        line = refusal(small_job(f"model.id={folder}", f"quantization={quantization}"))
        assert line.startswith("model.id: cannot load (")


# -- fingerprint ------------------------------------------------------------------------------------------------------
READ = ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json"]
READ += ["added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model"]
READ += ["chat_template.jinja", "chat_template.json", "model.safetensors.index.json", "model-2.safetensors"]


def test_every_file_that_loading_reads_is_in_the_fingerprint(small_job: Any, folder: Path) -> None:
    """Added, changed or removed; notes beside them are not."""
    spec = small_job(f"model.id={folder}").model
    known = model_fingerprint(spec)
    for name in READ:
        file = folder / name
        before = file.read_bytes() if file.exists() else None
        for content in (b'{"weight_map": {}}', b'{"weight_map": {} }'):
            file.write_bytes(content)
            changed = model_fingerprint(spec)
            assert changed != known, name
        file.unlink() if before is None else file.write_bytes(before)
    for name in ("README.md", "recipe.json", "LICENSE.txt", "plot.png", ".gitattributes"):
        (folder / name).write_text("{}")
    assert model_fingerprint(spec) == known


def test_a_damaged_hash_of_generated_rows_is_taken_again(tmp_path: Path) -> None:
    """One bit, a file cut short, an empty one: the same fingerprint, and a whole file again."""
    rows = Source(path="generated:test", columns={"question": "question", "answer": "answer"})
    expected = source_fingerprint(rows, tmp_path, "data.test")
    (file,) = (tmp_path / "generated").glob("*/sha256")
    whole = file.read_bytes()
    for content in (bytes([whole[0] ^ 1]) + whole[1:], whole[:40], b"", b"\xff" * 64):
        file.write_bytes(content)
        assert source_fingerprint(rows, tmp_path, "data.test") == expected
        assert file.read_bytes() == whole


# -- GGUF -------------------------------------------------------------------------------------------------------------
def test_a_damaged_unpacked_gguf_is_unpacked_again(
    small_job: Any, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """One bit, a file cut short or gone, one too many: one line, and the right weights."""
    from harness.inputs import base_model

    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "x.gguf").write_bytes(b"GGUF")
    true, unpacked = base_model._from_pretrained, []

    def reader(kind: Any, spec: Any, options: Any) -> Any:
        if spec.gguf_file is None:
            return true(kind, spec, options)
        unpacked.append(spec.id)
        return make_model(256)

    monkeypatch.setattr(base_model, "_from_pretrained", reader)
    job = small_job()
    spec = dataclasses.replace(job.model, id=str(tmp_path / "m"), gguf_file="x.gguf", revision=None)
    job = dataclasses.replace(job, model=spec)
    load_model(job)
    load_model(job)
    assert len(unpacked) == 1
    (place,) = (p for p in (job.cache_dir / "dequantized").iterdir() if p.is_dir())

    def flip(name: str) -> None:
        content = bytearray((place / name).read_bytes())
        content[-9] ^= 1
        (place / name).write_bytes(content)

    damage: list[Callable[[], Any]] = [
        lambda: flip("model.safetensors"),
        lambda: flip("config.json"),
        lambda: (place / "model.safetensors").write_bytes(b"\x08"),
        (place / "config.json").unlink,
        (place / "more.json").touch,
    ]
    for count, harm in enumerate(damage, start=2):
        harm()
        capsys.readouterr()
        model: Any = load_model(job)
        assert torch.equal(model.model.embed_tokens.weight, make_model(256).model.embed_tokens.weight)
        assert len(unpacked) == count
        assert f"{place}: damaged; writing it again" in capsys.readouterr().err
