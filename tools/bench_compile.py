"""What train.compile gains for every variant, and what compiling takes: part of `make bench`.

python -m tools.bench_compile
    variants=all       or <name>,<name>; `full` too
    layers=1 tokens=128    of Qwen3-0.6B's shapes, four rows
    rounds=5           of an eager and a compiled step, in turn
    device=auto force=false   force: also where the section is up to date
    out=reports/bench.json    its section `compile`

A step is a forward and a backward pass of the training loss, fp32 on a CPU and bf16 on CUDA. Compiling is timed with
the first step; kernels that an earlier variant compiled are not compiled again.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from harness.cli.arguments import parse
from tools._shared import calibration, perturb, timed, variants, write_section


@dataclass
class Arguments:
    variants: list[str] = field(default_factory=lambda: ["all"])
    layers: int = 1
    tokens: int = 128
    rounds: int = 5
    device: str = "auto"
    out: str = "reports/bench.json"
    force: bool = False


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    import adapters as ad
    from harness.device import usable_device

    args.device = usable_device(args.device)
    trained = [n for n in variants(args.variants, trains_base=True) if ad.VARIANTS[n].Config is not ad.NoneConfig]
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # empty, since compiling is measured
        write_section(args, "compile", __file__, lambda: {"rows": {name: measure(name, args) for name in trained}})


def measure(name: str, args: Arguments) -> dict[str, Any]:
    """compile: seconds. eager, compiled: seconds of a step, round by round. difference: of the two losses, relative."""
    import torch

    import adapters as ad
    from harness.training.compiled import compiled
    from tools._qwen3 import random_qwen3

    model = random_qwen3(args.layers, args.device)
    ids = torch.randint(model.config.vocab_size, (4, args.tokens), device=args.device)
    batch = ids, torch.arange(1, ids.numel(), device=args.device)
    adapter = ad.attach(model, ad.VARIANTS[name].Config(), seed=0, calibration=calibration(name, ids))
    with adapter as handle, ExitStack() as blocks:
        perturb(handle.trainable().values())  # else gradients are zero by the initial values
        model.train()
        _step(model, batch)
        compiling, _ = timed(lambda: (blocks.enter_context(compiled(model, batch, enabled=True)), _step(model, batch)))
        decoder = model.get_decoder()
        row: dict[str, Any] = {"compile": compiling, "eager": [], "compiled": []}
        call = decoder._compiled_call_impl
        for _ in range(args.rounds):
            losses = {}
            for way in ("eager", "compiled"):
                decoder._compiled_call_impl = call if way == "compiled" else None
                seconds, losses[way] = timed(lambda: _step(model, batch), args.device)
                row[way].append(seconds)
    row["difference"] = abs(losses["compiled"] / losses["eager"] - 1)
    print(f"{name}: {row}", file=sys.stderr, flush=True)
    return row


def _step(model: Any, batch: Any) -> float:
    from harness.loss import label_loss_sum

    loss = label_loss_sum(model, *batch)
    loss.backward()
    model.zero_grad(set_to_none=True)
    return float(loss.detach())


if __name__ == "__main__":
    main(sys.argv[1:])
