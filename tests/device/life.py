"""Every variant's life on a device that is not the CPU: nothing mixes devices, waits in a step, or computes in fp64.

Not collected by its name: tests/device/test_device.py runs it in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import adapters as ad
from adapters._checkpoint import bilinear_probes
from adapters._weights import dense_weight
from harness.data.tokenize import Example
from harness.evaluation.generate import generate
from harness.inputs.base_model import gradient_checkpointing
from harness.training.loop import optimizer_step
from harness.training.masters import Masters
from tests.device.quantized import quantized
from tests.oracles import oracle
from tools.benches._qwen3 import random_qwen3
from tools.benches._simulated import DEVICE, Meter, simulated

SIZES = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
SIZES |= {"num_attention_heads": 8, "num_key_value_heads": 4}
SETTINGS = [(n, kw) for n in ad.VARIANTS for kw in ({}, *oracle(n, "SETTINGS", []))]
CASES = [(n, kw, "none", dtype) for n, kw in SETTINGS for dtype in (torch.float32, torch.bfloat16)]
CASES += [(n, {}, q, torch.bfloat16) for n, v in ad.VARIANTS.items() if v.supports_quantized for q in ("4bit", "8bit")]
IDS = ["-".join([n, *(f"{k}={v}" for k, v in kw.items()), q, str(dtype)[6:]]) for n, kw, q, dtype in CASES]

DECODING = "harness/evaluation/generate.py"  # the only lines that may wait while texts are decoded
BASES: dict[tuple[str, torch.dtype], Any] = {}  # models that no test holds
OUTLIERS = "int8_vectorwise_quant"  # an 8-bit base waits in each layer for its outlier columns, whatever is attached


@contextmanager
def base(quantization: str, dtype: torch.dtype) -> Iterator[Any]:
    """A model, which the next test gets too unless this one fails."""
    model = BASES.pop((quantization, dtype), None)
    if model is None:
        model = random_qwen3(1, DEVICE, dtype=dtype, **SIZES)
        model = model if quantization == "none" else quantized(model, quantization)
    yield model
    BASES[quantization, dtype] = model


@pytest.mark.parametrize(("name", "settings", "quantization", "dtype"), CASES, ids=IDS)
def test_life(name: str, settings: dict[str, Any], quantization: str, dtype: torch.dtype) -> None:
    """Attach, two training steps (the second in micro-batches, with gradient checkpointing), probes, texts, detach."""
    variant = ad.VARIANTS[name]
    cfg = variant.Config(**{k: v for k, v in settings.items() if k != "calibrated"})
    with simulated() as meter, base(quantization, dtype) as model:
        before = {n: (t.dtype, t.requires_grad) for n, t in tensors(model)}
        ids = torch.arange(48, device=DEVICE).view(3, 16)
        read = variant.calibration(cfg) is not ad.Calibration.unused
        handle = ad.attach(model, cfg, seed=0, calibration=[ids] if read else None)
        assert [n for n, t in tensors(model) if t.device.type != DEVICE] == []
        if handle.trainable():
            train(meter, model)
        for site in handle.sites.values():
            bilinear_probes(site, dense_weight(site.layer))
        meter.reset()
        limits: Any = {"batch_size": 2, "max_new_tokens": 2, "complete": lambda tokens: False}
        assert len(generate(model, [[1, 2], [1, 2, 3], [4]], eos={511}, pad=0, device=DEVICE, **limits)) == 3
        assert [w for w in meter.waits if f"@ {DECODING}" not in w and OUTLIERS not in w] == []
        assert dict(meter.fp64) == {}
        handle.detach()
        assert {n: (t.dtype, t.requires_grad) for n, t in tensors(model)} == before
        assert [n for n, t in tensors(model) if t.device.type != DEVICE] == []


def test_decoding_waits_once_per_token() -> None:
    """70 tokens more are 70 waits more, all where the tokens are read, while the cache grows."""
    waits = []
    with simulated() as meter, base("none", torch.bfloat16) as model:
        for tokens in (2, 72, 142):
            meter.reset()
            limits: Any = {"batch_size": 2, "max_new_tokens": tokens, "complete": lambda tokens: False}
            generate(model, [[1, 2], [1, 2, 3]], eos={511}, pad=0, device=DEVICE, **limits)
            waits.append(meter.waits)
    for fewer, more in pairwise(waits):
        ((line, count),) = (more - fewer).items()
        assert count == 70
        assert line.startswith(f"tolist @ {DECODING}")


def tensors(model: Any) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def train(meter: Meter, model: Any) -> None:
    job: Any = SimpleNamespace(seed=0, device=DEVICE, clip=1.0)
    masters = Masters(model)
    optimizer = torch.optim.AdamW(masters.groups(lr=1e-3, weight_decay=0.1))
    batch = [Example(tuple(range(1, 12 + n)), 3) for n in range(2)]
    model.train()
    for step, (job.micro_batch, saving) in enumerate([(None, False), (1, True)]):
        meter.reset()
        with gradient_checkpointing(model, enabled=saving):
            optimizer_step(model, optimizer, masters, job, step, batch, 0)
        assert meter.launches["mm"] > 0
        assert [w for w in meter.waits if OUTLIERS not in w] == []
        assert dict(meter.fp64) == {}
    model.eval()
