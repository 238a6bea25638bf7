"""Memory of a training step: it follows live tensors, and a wrong loss is noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.paths import ROOT
from tools import bench_memory


def test_memory_follows_live_tensors(tmp_path: Path) -> None:
    """Both losses in fp32 with a vocabulary so large that logits dominate: what a chunk saves can be counted."""
    words = ["layers=1", "batch=2", "tokens=512", "vocabulary=65536", "dtype=float32", "device=cpu", "shares=1"]
    bench_memory.main([*words, "checkpointing=false", f"out={tmp_path / 'm.json'}"])
    found = json.loads((tmp_path / "m.json").read_text())
    rows = {r["loss"]: r for r in found["rows"]}
    logits = 2 * 512 * 65536 * 4  # bytes, once
    assert 2.5 * logits < rows["model"]["step_bytes"] < 6 * logits
    assert rows["chunks"]["step_bytes"] < 0.8 * rows["model"]["step_bytes"]  # two chunks of 512 labels
    (ratio,) = found["ratios"]
    assert ratio["peak"] == rows["chunks"]["peak_bytes"] / rows["model"]["peak_bytes"]
    weights = 65536 * 1024 + 1024 * (2048 + 1024 + 1024 + 2048 + 3 * 3072)  # tied embedding; q k v o, gate up down
    assert 4 * weights < rows["model"]["model_bytes"] < 4 * weights * 1.02
    (difference,) = found["differences"]
    assert difference["same"]


def test_a_wrong_loss_is_noticed(monkeypatch: Any, tmp_path: Path) -> None:
    """The comparison looks at values, not only at names."""
    from safetensors.torch import save_file

    args = bench_memory.Arguments(shares="1", checkpointing="false", dtype="float32", device="cpu")
    steps = bench_memory.steps(args, tmp_path)
    for wrong, tensors in ((False, [1.0, 2.0]), (True, [1.0, 2.01]), (True, [0.0, 0.0])):
        for step in steps:
            own = step.loss == "chunks"
            values = tensors if own or not any(tensors) else [1.0, 2.0]
            save_file({"loss": torch.tensor(3.0), "a": torch.tensor(values)}, step.gradients)
        (difference,) = bench_memory.compare(args, steps)
        assert difference["same"] is not wrong


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["variants=nope"], r"variants: unknown, got 'nope'; expected one of .*"),
        (["losses=mine"], r"losses: unknown, got 'mine'; expected one of model, chunks\."),
        (["shares=2"], r"shares: out of range, got '2'; expected numbers above 0 and up to 1\."),
        (["checkpointing=maybe"], r"checkpointing: unknown, got 'maybe'; expected one of false, true, both\."),
        (["dtype=int8"], r"dtype: unknown, got 'int8'; expected one of .*"),
    ],
)
def test_memory_refuses_what_cannot_be(words: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        bench_memory.main(["device=cpu", *words])


def test_the_loss_takes_at_most_six_tenths_of_the_memory() -> None:
    """The measured ratios that docs/gsm8k.md shows, without gradient checkpointing; loss and gradients agreed."""
    found = json.loads((ROOT / "reports" / "memory.json").read_text())
    shape = {k: found["arguments"][k] for k in ("layers", "batch", "tokens", "vocabulary", "dtype")}
    assert shape == {"layers": 28, "batch": 4, "tokens": 768, "vocabulary": 151936, "dtype": "bfloat16"}
    plain = [r["peak"] for r in found["ratios"] if not r["checkpointing"]]
    assert plain
    assert max(plain) <= 0.6
    assert all(d["same"] for d in found["differences"])
