"""Peak memory of a training step: measured right, compared by value, refused in one line."""

from __future__ import annotations

import dataclasses
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


@pytest.mark.parametrize(
    ("own", "other", "same"),
    [
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.0]}, True),
        ({"a": [1.0, 2.01]}, {"a": [1.0, 2.0]}, False),
        ({"a": [0.0, 0.0]}, {"a": [0.0, 0.0]}, False),  # nothing was compared
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.0], "b": [1.0]}, False),
        ({"a": [1.0], "b": [1.0]}, {"a": [1.0]}, False),
        ({"loss": 3.001, "a": [1.0]}, {"a": [1.0]}, False),
        ({}, {}, True),  # `none` has no gradients
    ],
)
def test_a_wrong_loss_is_noticed(tmp_path: Path, own: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    """The comparison looks at values, not only at names; PEFT's rows and those of one loss alone are not compared."""
    from safetensors.torch import save_file

    args = bench_memory.Arguments(variants=["lora"], shares=[1.0], checkpointing=[False], peft=True, device="cpu")
    rows = []
    for step in bench_memory.steps(args, tmp_path):
        tensors = {"loss": 3.0} | (own if step.loss == "chunks" else other)
        save_file({n: torch.tensor(v) for n, v in tensors.items()}, step.gradients)
        sizes = {"peak_bytes": 10 if step.loss == "model" else 4, "step_bytes": 8 if step.loss == "model" else 2}
        rows.append(dataclasses.asdict(step) | sizes)
    assert [r["peft"] for r in rows] == [False, False, True]
    (ratio,), (difference,) = bench_memory.compare(rows, "float32")
    assert difference["same"] is same
    assert (ratio["peak"], ratio["above_model"]) == (0.4, 0.25)
    assert bench_memory.compare(rows[1:], "float32") == ([], [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["variants=nope"], r"variants: unknown, got 'nope'; expected one of .*"),
        (["losses=mine"], r"losses: unknown, got 'mine'; expected one of model, chunks\."),
        (["shares=0.5,2"], r"shares: out of range, got 2\.0; expected a finite number > 0 and <= 1\."),
        (["shares=0"], r"shares: out of range, got 0\.0; expected a finite number > 0 and <= 1\."),
        (["checkpointing=maybe"], r"checkpointing: wrong type, got 'maybe'; expected true, false or true,false\. .*"),
        (["dtype=int8"], r"dtype: unknown, got 'int8'; expected one of .*"),
    ],
)
def test_memory_refuses_bad_input(words: list[str], message: str) -> None:
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
