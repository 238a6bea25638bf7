"""What train.compile gains for every variant, and what compiling takes.

A step is a forward and a backward pass of the training loss, fp32 on a CPU and bf16 on CUDA. Compiling is timed with
the first step; kernels that an earlier variant compiled are not compiled again.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack
from typing import Any

import torch

import adapters as ad
from harness.loss import label_loss_sum
from harness.report.markdown import grid
from harness.training.compiled import compiled
from tools._shared import calibration, perturb, variants
from tools.benches._common import setting, shown, spread, timed
from tools.benches._qwen3 import random_qwen3

SIZES = {"layers": 1, "tokens": 128, "rounds": 5}  # an eager and a compiled step a round, on four rows


def measure(args: Any) -> dict[str, Any]:
    """rows: variant → what `steps` returns."""
    trained = [n for n in variants(args.variants, trains_base=True) if ad.VARIANTS[n].Config is not ad.NoneConfig]
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # empty, since compiling is measured
        return {"arguments": SIZES, "rows": {name: steps(name, args.device) for name in trained}}


def steps(name: str, device: str) -> dict[str, Any]:
    """compile: seconds. eager, compiled: seconds of a step, round by round. difference: of the two losses, relative."""
    model = random_qwen3(SIZES["layers"], device)
    ids = torch.randint(model.config.vocab_size, (4, SIZES["tokens"]), device=device)
    batch = ids, torch.arange(1, ids.numel(), device=device)
    adapter = ad.attach(model, ad.VARIANTS[name].Config(), seed=0, calibration=calibration(name, ids))
    with adapter as handle, ExitStack() as blocks:
        perturb(handle.trainable().values())  # else gradients are zero by the initial values
        model.train()
        _step(model, batch)
        compiling, _ = timed(lambda: (blocks.enter_context(compiled(model, batch, enabled=True)), _step(model, batch)))
        decoder = model.get_decoder()
        row: dict[str, Any] = {"compile": compiling, "eager": [], "compiled": []}
        call = decoder._compiled_call_impl
        for _ in range(SIZES["rounds"]):
            losses = {}
            for way in ("eager", "compiled"):
                decoder._compiled_call_impl = call if way == "compiled" else None
                seconds, losses[way] = timed(lambda: _step(model, batch), device)
                row[way].append(seconds)
    row["difference"] = abs(losses["compiled"] / losses["eager"] - 1)
    print(f"{name}: {row}", file=sys.stderr, flush=True)
    return row


def _step(model: Any, batch: Any) -> float:
    loss = label_loss_sum(model, *batch)
    loss.backward()
    model.zero_grad(set_to_none=True)
    return float(loss.detach())


def page(section: dict[str, Any]) -> str:
    """Gain, compile time and difference in the loss for each variant."""
    a, body = section["arguments"], []
    for name, row in section["rows"].items():
        gain = spread(eager / compiled for eager, compiled in zip(row["eager"], row["compiled"], strict=True))
        body.append([name, shown(gain), f"{row['compile']:.0f}", f"{row['difference']:.0e}"])
    what = (
        f"Forward and backward pass of the training loss on Qwen3-0.6B's shapes, {a['layers']} layer(s), 4 × "
        f"{a['tokens']} tokens, {a['rounds']} rounds. Compile time includes the first step; kernels that a variant "
        f"above compiled are not compiled again. {setting(section)}"
    )
    head = ["adapter", "eager ÷ compiled", "compile, s", "relative difference of the loss"]
    return "\n\n".join([what, "\n".join(grid(head, body))])
