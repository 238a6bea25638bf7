"""Peak memory of one training step on Qwen3-0.6B's real shapes: `make memory`, or `python -m tools.bench_memory …`.

    variants=<name>,<name>   `all`: every one that leaves the base frozen; empty: LoRA
    losses=model,chunks      the loss by `model(labels=…)`, by harness/loss.py, or both (then compared)
    shares=0.64,1            shares of each row's tokens that are labels
    checkpointing=both       false, true or both
    peft=false               also PEFT's own implementation of a variant, where it has one (with the loss by chunks)
    layers=28 batch=4 tokens=768 vocabulary=151936 dtype=bfloat16
    device=auto out=<file>   JSON

Random weights; every measurement is a process of its own. A step is a forward and a backward pass, after a warm-up on
eight tokens. On CUDA the peak is torch.cuda.max_memory_allocated, and the step is timed. On CPU it is the peak resident
set during the step, less what the process holds beside the model; allocations above 64 KiB are mapped each by itself
there, so that freed memory leaves the resident set at once and the figure follows live tensors (which makes the step
slower: it is not timed).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from harness.paths import ROOT, under_root

MAPPED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}  # glibc; see mallopt(3)
NOISE = 0.02  # standard deviation of what is added to adapters, so that no gradient is zero by their initial values
KINDS = {"model": "model(labels=…)", "chunks": "label_loss_sum"}
TOLERANCE = {"bfloat16": (2e-3, 5e-2), "float32": (1e-5, 1e-3), "float64": (1e-6, 1e-6)}  # loss, gradients; relative


@dataclass
class Arguments:
    variants: str = ""
    losses: str = "model,chunks"
    shares: str = "0.64,1"
    checkpointing: str = "both"
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
    from harness.cli.arguments import parse

    args = parse(Arguments, argv, __doc__ or "")
    if args.measure:
        print(json.dumps(measure(args, Step(**json.loads(args.measure)))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for step in steps(args, Path(scratch)):
            rows.append(asdict(step) | _in_a_process(args, step))
            del rows[-1]["gradients"]
            print(line(rows[-1]), flush=True)
        differences = compare(args, steps(args, Path(scratch)))
    found = {"arguments": asdict(args), "rows": rows, "ratios": ratios(rows), "differences": differences}
    for ratio in found["ratios"]:
        print(json.dumps(ratio))
    for difference in differences:
        print(json.dumps(difference))
    if args.out:
        from harness.measure.provenance import provenance

        made = found | {"provenance": provenance(rows[0]["device"])}
        under_root(args.out).write_text(json.dumps(made, indent=1) + "\n")
    if bad := [d for d in differences if not d["same"]]:
        raise SystemExit(f"bench_memory: loss or gradients differ by more than rounding: {bad[0]}")


def steps(args: Arguments, scratch: Path) -> list[Step]:
    """All measurements that the arguments ask for, in their order. Raises BadInput for what cannot be."""
    import adapters as ad
    from harness.device import usable_device
    from harness.errors import refuse
    from tools.bench_speed import PEFT_KINDS, REFERENCE

    frozen = [n for n, v in ad.VARIANTS.items() if not v.trains_base]
    usual = [n for n in frozen if ad.VARIANTS[n].Config.__name__ == REFERENCE["train"]]
    names = {"": usual, "all": frozen}.get(args.variants) or args.variants.split(",")
    losses, shares = args.losses.split(","), args.shares.split(",")
    checkpointing = {"false": [False], "true": [True], "both": [False, True]}.get(args.checkpointing)
    wrong = [("variants", n, frozen) for n in names if n not in frozen]
    wrong += [("losses", n, list(KINDS)) for n in losses if n not in KINDS]
    wrong += [("dtype", args.dtype, list(TOLERANCE))] * (args.dtype not in TOLERANCE)
    wrong += [("checkpointing", args.checkpointing, ["false", "true", "both"])] * (checkpointing is None)
    for key, got, options in wrong:
        raise refuse(key, "unknown", got=got, expected=f"one of {', '.join(options)}")
    for share in shares:
        if not share.replace(".", "", 1).isdigit() or not 0 < float(share) <= 1:
            raise refuse("shares", "out of range", got=share, expected="numbers above 0 and up to 1")
    device, found = usable_device(args.device), []
    for name, share, saved in product(names, shares, checkpointing or []):
        theirs = args.peft and ad.VARIANTS[name].Config.__name__ in PEFT_KINDS
        ways = [(loss, False) for loss in losses] + [(losses[-1], True)] * theirs
        for loss, peft in ways:
            file = scratch / f"{name}-{share}-{saved}-{loss}-{peft}"
            found.append(Step(name, peft, loss, float(share), saved, str(file), device))
    return found


def _in_a_process(args: Arguments, step: Step) -> dict[str, Any]:
    words = [f"{k}={v}" for k, v in asdict(args).items() if k in ("layers", "batch", "tokens", "vocabulary", "dtype")]
    environment = os.environ | (MAPPED if step.device == "cpu" else {})
    command = [sys.executable, "-m", "tools.bench_memory", *words, f"measure={json.dumps(asdict(step))}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"bench_memory: a measurement ended with code {done.returncode}; its message is above")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# -- one measurement ---------------------------------------------------------------------------------------------------
def measure(args: Arguments, step: Step) -> dict[str, Any]:
    """Bytes of one step in this process; writes loss and gradients for `compare`."""
    import torch
    from safetensors.torch import save_file

    from adapters._contract import DTYPES
    from harness.device import synchronize
    from harness.inputs.base_model import gradient_checkpointing
    from tools.bench_speed import implementations, random_qwen3

    model = random_qwen3(args.layers, step.device, dtype=DTYPES[args.dtype], vocabulary=args.vocabulary)
    ids = torch.randint(args.vocabulary, (args.batch, args.tokens), generator=torch.Generator().manual_seed(1))
    ids = ids.to(step.device)
    made = implementations(step.variant, model, ids[:1, :64], peft=step.peft)
    attach = list(made.values())[1 if step.peft else 0]
    with attach(), gradient_checkpointing(model, enabled=step.checkpointing):
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        _perturb(trainable)
        model.train()
        _loss(model, ids[:1, :8], 0.5, step.loss, trained=bool(trainable))
        model.zero_grad(set_to_none=True)
        held = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
        before = _start(step.device)
        start = time.perf_counter()
        loss = _loss(model, ids, step.share, step.loss, trained=bool(trainable))
        synchronize(step.device)
        seconds, peak = time.perf_counter() - start, _peak(step.device)
        found = {n: p.grad.contiguous() for n, p in trainable.items() if p.grad is not None}
        save_file(found | {"loss": loss}, step.gradients)
    row: dict[str, Any] = {"model_bytes": held, "step_bytes": peak - before, "peak_bytes": held + peak - before}
    if step.device != "cpu":
        row |= {"peak_bytes": peak, "step_seconds": seconds}
    return row


def _loss(model: Any, ids: Any, share: float, kind: str, *, trained: bool) -> Any:
    """Forward and backward; mean loss over labels, which are the last `share` of each row."""
    import torch

    from harness.loss import label_loss_sum

    rows, width = ids.shape
    first = max(1, width - round(share * width))
    if kind == "model":
        wanted = ids.clone()
        wanted[:, :first] = -100
        loss = model(input_ids=ids, labels=wanted, use_cache=False).loss
    else:
        columns = torch.arange(first, width, device=ids.device)
        labels = (torch.arange(rows, device=ids.device)[:, None] * width + columns).flatten()
        loss = label_loss_sum(model, ids, labels) / len(labels)
    if trained:
        loss.backward()
    return loss.detach()


def _perturb(trainable: dict[str, Any]) -> None:
    import torch

    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in trainable.values():
            p.add_((NOISE * torch.randn(p.shape, generator=generator)).to(p))


def _start(device: str) -> int:
    """Bytes in use now; the peak counts from here."""
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
def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """label_loss_sum's peak over model(labels=…)'s, whole and without the model itself."""
    found = []
    for own in rows:
        if own["loss"] != "chunks" or own["peft"]:
            continue
        same = {k: own[k] for k in ("variant", "peft", "share", "checkpointing")}
        for other in rows:
            if other["loss"] == "model" and all(other[k] == v for k, v in same.items()):
                whole = own["peak_bytes"] / other["peak_bytes"]
                found.append(same | {"peak": whole, "above_model": own["step_bytes"] / other["step_bytes"]})
    return found


def compare(args: Arguments, made: list[Step]) -> list[dict[str, Any]]:
    """Largest difference of loss and gradients between the two losses, relative; over the measurements just made."""
    from safetensors.torch import load_file

    if set(args.losses.split(",")) != set(KINDS):
        return []
    found = []
    for step in made:
        if step.loss != "chunks" or step.peft:
            continue
        own = load_file(step.gradients)
        other = load_file(step.gradients.replace("-chunks-", "-model-"))
        loss = abs(float(own.pop("loss")) / float(other.pop("loss")) - 1)
        change = sum(float((g.double() - other[n].double()).square().sum()) for n, g in own.items())
        size = sum(float(g.double().square().sum()) for g in other.values())
        gradients = (change / size) ** 0.5 if size else 0.0
        most = TOLERANCE[args.dtype]
        same = own.keys() == other.keys() and (size > 0 or not own) and loss <= most[0] and gradients <= most[1]
        place = {"variant": step.variant, "share": step.share, "checkpointing": step.checkpointing}
        found.append(place | {"loss": loss, "gradients": gradients, "same": same})
    return found


def line(row: dict[str, Any]) -> str:
    name = row["variant"] + (" (PEFT)" if row["peft"] else "")
    how = f"{KINDS[row['loss']]}, {row['share']:.0%} labels" + (", checkpointing" if row["checkpointing"] else "")
    seconds = f", {1000 * row['step_seconds']:,.0f} ms" if "step_seconds" in row else ""
    return f"{name}: {how}: peak {row['peak_bytes'] / 1e9:.2f} GB, model {row['model_bytes'] / 1e9:.2f} GB{seconds}"


if __name__ == "__main__":
    main(sys.argv[1:])
