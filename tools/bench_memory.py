"""Peak memory of one training step on Qwen3-0.6B's real shapes: `make memory`.

python -m tools.bench_memory
    variants=lora            <name>,<name>, or `all`, which are those that leave the base frozen
    losses=model,chunks      the loss by `model(labels=…)`, by harness/loss.py, or by both, which are then compared
    shares=0.64,1            shares of each row's tokens that are labels
    checkpointing=false,true
    peft=false               also PEFT's implementation of a variant, if it has one (with the last loss)
    layers=28 batch=4 tokens=768 vocabulary=151936 dtype=bfloat16
    device=auto out=<file>   JSON

Random weights; every measurement is a process of its own. A step is a forward and a backward pass, after a warm-up on
eight tokens. On CUDA the peak is torch.cuda.max_memory_allocated, and the step is timed. On CPU it is the peak resident
set during the step, less what the process holds beside the model. There, each allocation above 64 KiB is mapped by
itself, so that freed memory leaves the resident set at once and the figure follows live tensors. That makes the step
slower, so it is not timed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from harness.cli.arguments import parse
from harness.paths import ROOT
from tools._shared import one_of, perturb, timed, variants, write_json

MAPPED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}  # glibc; see mallopt(3)
KINDS = {"model": "model(labels=…)", "chunks": "label_loss_sum"}
TOLERANCE = {"bfloat16": (2e-3, 5e-2), "float32": (1e-5, 1e-3), "float64": (1e-6, 1e-6)}  # loss, gradients; relative


@dataclass
class Arguments:
    variants: list[str] = field(default_factory=lambda: ["lora"])
    losses: list[str] = field(default_factory=lambda: list(KINDS))
    shares: list[float] = field(default_factory=lambda: [0.64, 1.0])
    checkpointing: list[bool] = field(default_factory=lambda: [False, True])
    peft: bool = False
    layers: int = 28
    batch: int = 4
    tokens: int = 768
    vocabulary: int = 151936
    dtype: str = "bfloat16"
    device: str = "auto"
    out: str = ""
    measure: str = ""  # internal: JSON of the one Step that this process is to measure


@dataclass
class Step:
    """One measurement. loss: a key of KINDS. gradients: file to write the loss and the adapter's gradients to."""

    variant: str
    peft: bool
    loss: str
    share: float
    checkpointing: bool
    gradients: str
    device: str


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    if args.measure:
        print(json.dumps(measure(args, Step(**json.loads(args.measure)))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        planned = steps(args, Path(scratch))
        for step in planned:
            rows.append(asdict(step) | _in_a_process(args, step))
            print(line(rows[-1]), flush=True)
        ratios, differences = compare(rows, args.dtype)
    for row in rows:
        del row["gradients"]
    for comparison in [*ratios, *differences]:
        print(json.dumps(comparison))
    result = {"arguments": asdict(args), "rows": rows, "ratios": ratios, "differences": differences}
    write_json(args.out, result, planned[0].device)
    if bad := [d for d in differences if not d["same"]]:
        raise SystemExit(f"bench_memory: loss or gradients differ by more than rounding: {bad[0]}")


def steps(args: Arguments, scratch: Path) -> list[Step]:
    """All measurements that the arguments ask for, in their order. Raises BadInput."""
    from harness.device import usable_device
    from harness.errors import number
    from tools._qwen3 import PEFT_KINDS

    names, device = variants(args.variants), usable_device(args.device)
    losses = [one_of("losses", loss, KINDS) for loss in args.losses]
    shares = [number("shares", share, above=0, hi=1) for share in args.shares]
    one_of("dtype", args.dtype, TOLERANCE)
    planned = []
    for name, share, saved in product(names, shares, args.checkpointing):
        ways = [(loss, False) for loss in losses] + [(losses[-1], True)] * (args.peft and name in PEFT_KINDS)
        for loss, peft in ways:
            file = scratch / f"{name}-{share}-{saved}-{loss}-{peft}"
            planned.append(Step(name, peft, loss, share, saved, str(file), device))
    return planned


def _in_a_process(args: Arguments, step: Step) -> dict[str, Any]:
    words = [f"{k}={v}" for k, v in asdict(args).items() if k in ("layers", "batch", "tokens", "vocabulary", "dtype")]
    environment = os.environ | (MAPPED if step.device == "cpu" else {})
    command = [sys.executable, "-m", "tools.bench_memory", *words, f"measure={json.dumps(asdict(step))}"]
    process = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    if process.returncode:
        raise SystemExit(f"bench_memory: a measurement ended with code {process.returncode}; its message is above")
    row: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return row


# -- one measurement ---------------------------------------------------------------------------------------------------
def measure(args: Arguments, step: Step) -> dict[str, Any]:
    """Bytes of one step in this process; writes loss and gradients for `compare`."""
    import torch
    from safetensors.torch import save_file

    from adapters._contract import DTYPES
    from harness.inputs.base_model import gradient_checkpointing
    from tools._qwen3 import random_qwen3, ways_to_adapt

    model = random_qwen3(args.layers, step.device, dtype=DTYPES[args.dtype], vocab_size=args.vocabulary)
    ids = torch.randint(args.vocabulary, (args.batch, args.tokens), generator=torch.Generator().manual_seed(1))
    ids = ids.to(step.device)
    attach = list(ways_to_adapt(step.variant, model, ids[:1, :64], peft=step.peft).values())[-1]  # PEFT's comes last
    with attach(), gradient_checkpointing(model, enabled=step.checkpointing):
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        perturb(trainable.values())  # else gradients are zero by the initial values
        model.train()
        _loss(model, ids[:1, :8], 0.5, step.loss, trained=bool(trainable))
        model.zero_grad(set_to_none=True)
        model_bytes = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
        before = _start(step.device)
        seconds, loss = timed(lambda: _loss(model, ids, step.share, step.loss, trained=bool(trainable)), step.device)
        peak = _peak(step.device)
        gradients = {n: p.grad.contiguous() for n, p in trainable.items() if p.grad is not None}
        save_file(gradients | {"loss": loss}, step.gradients)
    step_bytes = peak - before
    if step.device == "cpu":
        return {"model_bytes": model_bytes, "step_bytes": step_bytes, "peak_bytes": model_bytes + step_bytes}
    return {"model_bytes": model_bytes, "step_bytes": step_bytes, "peak_bytes": peak, "step_seconds": seconds}


def _loss(model: Any, ids: Any, share: float, kind: str, *, trained: bool) -> Any:
    """Forward and backward; mean loss over labels, which are the last `share` of each row."""
    import torch

    from harness.loss import label_loss_sum

    rows, width = ids.shape
    first = max(1, width - round(share * width))
    if kind == "model":
        labels = ids.clone()
        labels[:, :first] = -100
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
    else:
        columns = torch.arange(first, width, device=ids.device)
        labels = (torch.arange(rows, device=ids.device)[:, None] * width + columns).flatten()
        loss = label_loss_sum(model, ids, labels) / len(labels)
    if trained:
        loss.backward()
    return loss.detach()


def _start(device: str) -> int:
    """Bytes in use now; the peak is measured from here on."""
    import torch

    from harness.measure.cost import peak_rss_bytes, reset_peak_rss

    if device != "cpu":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    reset_peak_rss()
    return peak_rss_bytes()


def _peak(device: str) -> int:
    import torch

    from harness.measure.cost import peak_rss_bytes

    return peak_rss_bytes() if device == "cpu" else int(torch.cuda.max_memory_allocated(device))


# -- comparing ---------------------------------------------------------------------------------------------------------
def compare(rows: list[dict[str, Any]], dtype: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """label_loss_sum against model(labels=…): ratios of their peaks, and differences of their losses and gradients."""
    keys = ("variant", "share", "checkpointing")
    models = {tuple(r[k] for k in keys): r for r in rows if r["loss"] == "model"}
    ratios, differences = [], []
    for row in rows:
        place = {k: row[k] for k in keys}
        model = models.get(tuple(place.values()))
        if model is None or row["peft"] or row["loss"] == "model":
            continue
        whole, above = (row[k] / model[k] for k in ("peak_bytes", "step_bytes"))
        ratios.append(place | {"peak": whole, "above_model": above})
        differences.append(place | difference(Path(row["gradients"]), Path(model["gradients"]), dtype))
    return ratios, differences


def difference(own_file: Path, other_file: Path, dtype: str) -> dict[str, Any]:
    """Relative differences of loss and gradients (norms over all tensors), and whether they are rounding errors."""
    from safetensors.torch import load_file

    own, other = load_file(own_file), load_file(other_file)
    loss = abs(float(own.pop("loss")) / float(other.pop("loss")) - 1)
    complete = own.keys() == other.keys()
    change = sum(float((g.double() - other[n].double()).square().sum()) for n, g in own.items() if n in other)
    size = sum(float(g.double().square().sum()) for g in other.values())
    gradients = (change / size) ** 0.5 if size else 0.0
    limits = TOLERANCE[dtype]
    same = complete and (size > 0 or not own) and loss <= limits[0] and gradients <= limits[1]
    return {"loss": loss, "gradients": gradients, "same": same}


def line(row: dict[str, Any]) -> str:
    name = row["variant"] + (" (PEFT)" if row["peft"] else "")
    how = f"{KINDS[row['loss']]}, {row['share']:.0%} labels" + (", checkpointing" if row["checkpointing"] else "")
    seconds = f", {1000 * row['step_seconds']:,.0f} ms" if "step_seconds" in row else ""
    return f"{name}: {how}: peak {row['peak_bytes'] / 1e9:.2f} GB, model {row['model_bytes'] / 1e9:.2f} GB{seconds}"


if __name__ == "__main__":
    main(sys.argv[1:])
