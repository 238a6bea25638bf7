"""Speed of every variant as ratios within one process: `make bench`, or `python -m harness.bench rounds=9 variants=…`.

Model: Qwen3-0.6B's layer shapes (hidden 1024, q 1024→2048, v 1024→1024) with random weights and fewer layers on CPU.
A training step is a forward and a backward; decoding is one token per row with a key/value cache. Variants are timed in
turn, round after round, and the median over rounds of time / LoRA's time (training) or / the bare model's time
(decoding) is reported: a machine that slows down slows both sides of a ratio. PEFT's own implementation of the same
variant, where it has one, is timed in the same rounds.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

REFERENCE = {"train": "LoRAConfig", "decode": "NoneConfig"}  # config classes whose times the ratios divide by
PEFT_KINDS: dict[str, tuple[str, dict[str, Any]]] = {  # our config class → PEFT's, with the same rank and targets
    "LoRAConfig": ("LoraConfig", {"r": 32}),
    "DoRAConfig": ("LoraConfig", {"r": 32, "use_dora": True}),
    "DeLoRAConfig": ("DeloraConfig", {"r": 32}),
    "IA3Config": ("IA3Config", {"feedforward_modules": []}),
    "HRAConfig": ("HRAConfig", {"r": 32}),
    "RoadConfig": ("RoadConfig", {}),
}


@dataclass
class Arguments:
    rounds: int = 7
    variants: str = ""  # comma-separated; empty: all that support a frozen base
    device: str = "auto"
    layers: int = 4
    tokens: int = 128  # per row of a training batch
    peft: bool = True
    out: str = ""  # JSON file for the result


def main(argv: list[str]) -> None:
    from harness.arguments import parse

    args = parse(Arguments, argv, __doc__ or "")
    import torch

    import adapters as ad
    from harness.job import usable_device

    device = usable_device(args.device)
    wanted = args.variants.split(",") if args.variants else [n for n, v in ad.VARIANTS.items() if not v.trains_base]
    needed = [n for n, v in ad.VARIANTS.items() if v.Config.__name__ in REFERENCE.values()]
    names = list(dict.fromkeys([*needed, *wanted]))
    model = random_qwen3(args.layers, device)
    ids = torch.randint(model.config.vocab_size, (4, args.tokens), device=device)
    times: dict[str, dict[str, list[float]]] = {}
    for turn in range(args.rounds + 1):
        for name in names:
            for label, attach in implementations(name, model, ids, peft=args.peft).items():
                with attach():
                    for what, seconds in (("train", time_training(model, ids)), ("decode", time_decoding(model, ids))):
                        if turn > 0:  # the first round warms up
                            times.setdefault(label, {}).setdefault(what, []).append(seconds)
        print(f"round {turn}/{args.rounds}", file=sys.stderr, flush=True)
    report(times, {n: ad.VARIANTS[n].Config.__name__ for n in names}, args, device)


def report(times: dict[str, dict[str, list[float]]], kinds: dict[str, str], args: Arguments, device: str) -> None:
    """Prints the medians of the ratios, and writes them with their spread where `out` says."""
    base = {what: next(n for n, kind in kinds.items() if kind == REFERENCE[what]) for what in REFERENCE}
    rows = []
    for label, measured in times.items():
        row: dict[str, Any] = {"implementation": label}
        for what, seconds in measured.items():
            ratios = [s / r for s, r in zip(seconds, times[base[what]][what], strict=True)]
            row |= {f"{what}_ratio": statistics.median(ratios), f"{what}_ms": 1000 * statistics.median(seconds)}
            row |= {f"{what}_low": min(ratios), f"{what}_high": max(ratios)}
        rows.append(row)
    print(f"{device}, {args.layers} layers, 4×{args.tokens} tokens, {args.rounds} rounds; median ratio [min, max]")
    print(f"{'':28}{'training step / ' + base['train']:>30}{'decoding / bare model':>30}")
    for r in rows:
        cells = [f"{r[f'{w}_ratio']:.3f} [{r[f'{w}_low']:.2f}, {r[f'{w}_high']:.2f}]" for w in ("train", "decode")]
        print(f"{r['implementation']:28}{cells[0]:>30}{cells[1]:>30}")
    if args.out:
        from pathlib import Path

        from harness.provenance import provenance

        made = {"arguments": vars(args), "provenance": provenance(device), "rows": rows}
        Path(args.out).write_text(json.dumps(made, indent=1) + "\n")


def random_qwen3(layers: int, device: str, *, dtype: Any = None, vocabulary: int = 8192) -> Any:
    """Qwen3-0.6B's shapes with random weights: frozen, bf16 on CUDA and fp32 on CPU."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = {"hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "num_key_value_heads": 8}
    config = Qwen3Config(
        num_hidden_layers=layers, head_dim=128, vocab_size=vocabulary, tie_word_embeddings=True, **shape
    )
    torch.manual_seed(0)
    dtype = dtype or (torch.float32 if device == "cpu" else torch.bfloat16)
    return Qwen3ForCausalLM(config).to(device, dtype).eval().requires_grad_(False)


def implementations(name: str, model: Any, ids: Any, *, peft: bool) -> dict[str, Callable[[], Any]]:
    """Label → a context manager factory that adapts `model`: ours, and PEFT's where it has the variant."""
    import adapters as ad

    kind = ad.VARIANTS[name]
    cfg = kind.Config()
    need = [ids] if kind.calibration(cfg).value == "required" else None
    made: dict[str, Callable[[], Any]] = {}
    made[name] = lambda: ad.attach(model, cfg, calibration=need, seed=0, cache_dir=".cache/bench-bases")
    if peft and type(cfg).__name__ in PEFT_KINDS:
        made[f"{name} (PEFT)"] = lambda: PeftAttached(model, *PEFT_KINDS[type(cfg).__name__], cfg.targets)
    return made


class PeftAttached:
    """PEFT's adapter for the length of a block; unloading puts the model's own layers back."""

    def __init__(self, model: Any, kind: str, options: dict[str, Any], targets: str) -> None:
        self.model, self.kind, self.options = model, kind, options
        self.targets = {"qv": ["q_proj", "v_proj"], "kv": ["k_proj", "v_proj"]}[targets]

    def __enter__(self) -> None:
        import peft

        config = getattr(peft, self.kind)(target_modules=self.targets, **self.options)
        self.adapted = peft.get_peft_model(self.model, config)

    def __exit__(self, *_: object) -> None:
        self.adapted.unload()
        self.model.requires_grad_(False)


def time_training(model: Any, ids: Any) -> float:
    """Seconds of one forward and backward; 0-gradient models (no adapter) run the forward alone."""
    from harness.models import synchronize

    synchronize(ids.device)
    start = time.perf_counter()
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    if loss.requires_grad:
        loss.backward()
    synchronize(ids.device)
    taken = time.perf_counter() - start
    model.zero_grad(set_to_none=True)
    return taken


def time_decoding(model: Any, ids: Any, steps: int = 8) -> float:
    """Seconds per token step of greedy decoding with a cache, after a short prompt; four rows."""
    import torch

    import adapters as ad
    from harness.models import synchronize

    with torch.inference_mode(), ad.frozen(model):
        out = model(input_ids=ids[:, :16], use_cache=True)
        token = out.logits[:, -1:].argmax(-1)
        model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
        synchronize(ids.device)
        start = time.perf_counter()
        for _ in range(steps):
            out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
        synchronize(ids.device)
    return (time.perf_counter() - start) / steps


if __name__ == "__main__":
    main(sys.argv[1:])
