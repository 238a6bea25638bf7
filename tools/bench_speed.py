"""Speed of every variant and of PEFT's implementations, as ratios measured within one process: `make bench`.

python -m tools.bench_speed
    variants=all         or <name>,<name>; lora and none, which the ratios are relative to, are always timed
    rounds=7             that are measured, after one to warm up
    layers=4             of the model
    tokens=128           per row of a training batch of four rows
    peft=true            also PEFT's implementation of a variant, if it has one
    device=auto out=<file>   JSON

The model has Qwen3-0.6B's layer shapes (hidden 1024, q 1024→2048, v 1024→1024), random weights and fewer layers. A
training step is a forward and a backward pass; decoding is one token per row with a key/value cache. All are timed in
turn, round after round. The median over rounds of time / LoRA's time (training) or / the bare model's time (decoding)
is reported, because a machine that slows down slows both sides of a ratio.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass, field
from typing import Any

from harness.cli.arguments import parse
from tools._shared import timed, variants, write_json

REFERENCE = {"train": "lora", "decode": "none"}  # the variant whose time the ratios are relative to


@dataclass
class Arguments:
    variants: list[str] = field(default_factory=lambda: ["all"])
    rounds: int = 7
    layers: int = 4
    tokens: int = 128
    peft: bool = True
    device: str = "auto"
    out: str = ""


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    import torch

    from harness.device import usable_device
    from tools._qwen3 import random_qwen3, ways_to_adapt

    device = usable_device(args.device)
    names = list(dict.fromkeys([*REFERENCE.values(), *variants(args.variants)]))
    model = random_qwen3(args.layers, device)
    ids = torch.randint(model.config.vocab_size, (4, args.tokens), device=device)
    times: dict[str, dict[str, list[float]]] = {}
    for turn in range(args.rounds + 1):
        for name in names:
            for label, attach in ways_to_adapt(name, model, ids, peft=args.peft).items():
                with attach():
                    for what, seconds in (("train", time_training(model, ids)), ("decode", time_decoding(model, ids))):
                        if turn > 0:  # the first round warms up
                            times.setdefault(label, {}).setdefault(what, []).append(seconds)
        print(f"round {turn}/{args.rounds}", file=sys.stderr, flush=True)
    report(times, args, device)


def report(times: dict[str, dict[str, list[float]]], args: Arguments, device: str) -> None:
    """Prints the medians of the ratios and writes them with their spread to `out`."""
    rows = []
    for label, measured in times.items():
        row: dict[str, Any] = {"implementation": label}
        for what, seconds in measured.items():
            ratios = [s / r for s, r in zip(seconds, times[REFERENCE[what]][what], strict=True)]
            row |= {f"{what}_ratio": statistics.median(ratios), f"{what}_ms": 1000 * statistics.median(seconds)}
            row |= {f"{what}_low": min(ratios), f"{what}_high": max(ratios)}
        rows.append(row)
    print(f"{device}, {args.layers} layers, 4×{args.tokens} tokens, {args.rounds} rounds; median ratio [min, max]")
    print(f"{'':28}{'training step / lora':>30}{'decoding / bare model':>30}")
    for r in rows:
        cells = [f"{r[f'{w}_ratio']:.3f} [{r[f'{w}_low']:.2f}, {r[f'{w}_high']:.2f}]" for w in ("train", "decode")]
        print(f"{r['implementation']:28}{cells[0]:>30}{cells[1]:>30}")
    write_json(args.out, {"arguments": vars(args), "rows": rows}, device)


def time_training(model: Any, ids: Any) -> float:
    """Seconds of one forward and backward pass; without trainable parameters (no adapter), of the forward pass."""

    def step() -> None:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        if loss.requires_grad:
            loss.backward()

    seconds, _ = timed(step, ids.device)
    model.zero_grad(set_to_none=True)
    return seconds


def time_decoding(model: Any, ids: Any, steps: int = 8) -> float:
    """Seconds per token of greedy decoding with a cache, after a prompt of 16 tokens; four rows."""
    import torch

    import adapters as ad

    with torch.inference_mode(), ad.frozen(model):
        out = model(input_ids=ids[:, :16], use_cache=True)
        cache, token = out.past_key_values, out.logits[:, -1:].argmax(-1)

        def decode(count: int, token: Any) -> None:
            for _ in range(count):
                token = model(input_ids=token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)

        decode(1, token)  # warms up
        seconds, _ = timed(lambda: decode(steps, token), ids.device)
    return seconds / steps


if __name__ == "__main__":
    main(sys.argv[1:])
