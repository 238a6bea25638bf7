"""Base models that need work before they can be used."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from harness.inputs.base_model import _from_pretrained, load_model
from tests.conftest import make_model


def test_a_gguf_base_is_unpacked_once_and_quantizes(tmp_path: Path, monkeypatch: Any, small_job: Any) -> None:
    """transformers quantizes nothing that comes from GGUF; a stand-in for its reader gives the dense model."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "x.gguf").write_bytes(b"GGUF")
    asked = []

    def reader(kind: Any, spec: Any, options: Any) -> Any:
        asked.append(spec.gguf_file)
        return make_model(256) if spec.gguf_file else _from_pretrained(kind, spec, options)

    monkeypatch.setattr("harness.inputs.base_model._from_pretrained", reader)
    job = small_job()
    spec = dataclasses.replace(job.model, id=str(tmp_path / "m"), gguf_file="x.gguf", revision=None)
    for quantization, kind in (("4bit", "Linear4bit"), ("none", "Linear"), ("8bit", "Linear8bitLt")):
        model = load_model(dataclasses.replace(job, model=spec, quantization=quantization))
        assert type(model.model.layers[0].self_attn.q_proj).__name__ == kind
        assert torch.equal(model.model.embed_tokens.weight, make_model(256).model.embed_tokens.weight)
    assert asked == ["x.gguf", None, None, None]
