"""Kernel launches and peak bytes of every variant on Qwen3-0.6B's shapes, on a simulated GPU: part of `make bench`.

python -m tools.bench_simulated
    variants=all         or <name>,<name>; lora and none, which the ratios are relative to, always
    peft=true            also PEFT's LoRA, with this project's loss and with model(labels=…)
    layers=28            of the model; 2 and 3 are counted, and every further layer adds what the third does
    batch=4 tokens=768 share=0.64   of a training step; share: of each row's tokens that are labels
    rows=64 context=440  of a decoding step
    force=false          true: also where the section is up to date
    out=reports/bench.json   its section `simulated`

bf16 and no arithmetic (see tools/_simulated.py), so a count is the same on every machine. Training launches are those
of a forward and a backward pass, without the optimizer's; decoding launches those of one token per row in a `frozen`
block, with the key/value cache. Peaks are of live tensors, with the base model and the optimizer's state.
"""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass, field
from typing import Any

from harness.cli.arguments import parse
from harness.report.markdown import grid
from tools._shared import calibration, variants, write_section

LAUNCHES, PEAK, PEAK_OF_PEFT = 1.15, 1.05, 0.6  # budgets: ratios to LoRA's (decoding: the bare model's) and to PEFT's
WHOLE, OURS = "lora (PEFT), model(labels=…)", "lora (PEFT)"


@dataclass
class Arguments:
    variants: list[str] = field(default_factory=lambda: ["all"])
    peft: bool = True
    layers: int = 28
    batch: int = 4
    tokens: int = 768
    share: float = 0.64
    rows: int = 64
    context: int = 440
    out: str = "reports/bench.json"
    force: bool = False


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    names = list(dict.fromkeys(["none", "lora", *variants(args.variants, trains_base=True)]))
    names += [OURS, WHOLE] * args.peft
    write_section(args, "simulated", __file__, lambda: {"rows": [counted(args, name) for name in names]})


def counted(args: Arguments, name: str) -> dict[str, Any]:
    """One row: a variant's, or that of PEFT's LoRA (OURS with this project's loss, WHOLE with the model's own)."""
    two, three = (measure(args, name, layers) for layers in (2, 3))
    row = {"name": name} | {key: n + (args.layers - 2) * (three[key] - n) for key, n in two.items()}
    print(*(f"{k}={v}" for k, v in row.items()), flush=True)
    return row


def measure(args: Arguments, name: str, layers: int) -> dict[str, int]:
    """The counts of a row at this number of layers."""
    import torch

    from tools._qwen3 import random_qwen3
    from tools._simulated import DEVICE, simulated

    with simulated() as meter:
        model = random_qwen3(layers, DEVICE, dtype=torch.bfloat16, vocab_size=151936)
        if name in (OURS, WHOLE):
            adapted, masters = _peft(model), None
        else:
            adapted, masters = model, _attached(model, name)
        gc.collect()
        row = {"held_bytes": meter.live} | _decoding(args, meter, adapted)
        trainable = [p for p in model.parameters() if p.requires_grad]
        if trainable:
            groups = masters.groups(lr=1e-4, weight_decay=0.1) if masters else trainable
            optimizer = torch.optim.AdamW(groups, lr=1e-4)
            row |= _training(args, meter, adapted, optimizer, masters, whole=name == WHOLE)
    return row


def _attached(model: Any, name: str) -> Any:
    import torch

    import adapters as ad
    from harness.training.masters import Masters
    from tools._simulated import DEVICE

    ids = torch.zeros(1, 64, dtype=torch.long, device=DEVICE)
    ad.attach(model, ad.VARIANTS[name].Config(), calibration=calibration(name, ids), seed=0)
    return Masters(model)


def _peft(model: Any) -> Any:
    import peft
    import torch

    from tools._qwen3 import peft_config
    from tools._simulated import DEVICE

    with torch.device(DEVICE):
        return peft.get_peft_model(model, peft_config("lora"))


def _training(args: Arguments, meter: Any, model: Any, optimizer: Any, masters: Any, *, whole: bool) -> dict[str, int]:
    """The second of two steps: launches and host waits of its passes, and its peak."""
    import torch

    from harness.loss import label_loss_sum
    from tools._simulated import DEVICE

    ids = torch.zeros(args.batch, args.tokens, dtype=torch.long, device=DEVICE)
    columns = torch.arange(args.tokens - round(args.share * args.tokens), args.tokens, device=DEVICE)
    labels = (torch.arange(args.batch, device=DEVICE)[:, None] * args.tokens + columns).flatten()
    bare = model if masters is not None else model.base_model.model
    model.train()
    for _ in range(2):
        meter.reset()
        if whole:
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        else:
            loss = label_loss_sum(bare, ids, labels) / len(labels)
        loss.backward()
        del loss
        launches = meter.launches.total()
        if masters is not None:
            masters.collect()
        torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if masters is not None:
            masters.write_back()
    model.eval()
    return {"train_launches": launches, "train_peak_bytes": meter.peak, "train_waits": meter.waits.total()}


def _decoding(args: Arguments, meter: Any, model: Any) -> dict[str, int]:
    """The second token after a prefill: launches, and the peak since before the prefill."""
    import torch
    from transformers import DynamicCache

    import adapters as ad
    from tools._simulated import DEVICE

    with torch.inference_mode(), ad.frozen(model):
        meter.reset()
        cache, width = DynamicCache(), args.context
        for _ in range(3):
            ids = torch.zeros(args.rows, width, dtype=torch.long, device=DEVICE)
            meter.launches.clear()
            model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            width = 1
    return {"decode_launches": meter.launches.total(), "decode_peak_bytes": meter.peak}


# -- the page ----------------------------------------------------------------------------------------------------------
def ratios(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Name → what the budgets are about: `train` and `decode` launches, `peak` over LoRA's, `peft` over PEFT's."""
    by_name = {r["name"]: r for r in rows}
    found: dict[str, dict[str, float]] = {}
    for name, r in by_name.items():
        found[name] = {"decode": r["decode_launches"] / by_name["none"]["decode_launches"]}
        if "train_launches" in r:
            found[name]["train"] = r["train_launches"] / by_name["lora"]["train_launches"]
            found[name]["peak"] = r["train_peak_bytes"] / by_name["lora"]["train_peak_bytes"]
            if WHOLE in by_name:
                found[name]["peft"] = r["train_peak_bytes"] / by_name[WHOLE]["train_peak_bytes"]
    return found


def over_budget(found: dict[str, float]) -> list[str]:
    """The budgets that these ratios break."""
    limits = {"train": LAUNCHES, "decode": LAUNCHES, "peak": PEAK, "peft": PEAK_OF_PEFT}
    return [key for key, limit in limits.items() if found.get(key, 0.0) > limit]


def page(measured: dict[str, Any]) -> str:
    """The section of reports/bench.md."""
    from adapters import VARIANTS

    a, found = measured["arguments"], ratios(measured["rows"])
    head = [
        "adapter",
        "training launches",
        "÷ LoRA",
        "decoding launches",
        "÷ bare model",
        "training peak, GB",
        "÷ LoRA",
    ]
    head += ["÷ PEFT's LoRA, model(labels=…)", "decoding peak, GB"]
    body = []
    for r in measured["rows"]:
        f = found[r["name"]]
        broken = over_budget(f) if r["name"] in VARIANTS and not VARIANTS[r["name"]].trains_base else []
        ratio = {k: f"{v:.2f}" + (" (over)" if k in broken else "") for k, v in f.items()}
        cells = [r["name"], _count(r, "train_launches"), ratio.get("train", "–"), _count(r, "decode_launches")]
        cells += [ratio["decode"], _gigabytes(r, "train_peak_bytes"), ratio.get("peak", "–"), ratio.get("peft", "–")]
        body.append([*cells, _gigabytes(r, "decode_peak_bytes")])
    what = (
        f"Counted, not measured: fake tensors on Qwen3-0.6B's shapes, bf16, {a['layers']} layers (2 and 3 are counted, "
        f"and each further one adds what the third does); training {a['batch']} × {a['tokens']} tokens with "
        f"{a['share']:.0%} labels, decoding {a['rows']} rows after {a['context']} tokens. Launches: kernels of a "
        f"forward and a backward pass, or of one decoded token per row. Peaks hold the model, the adapter and AdamW's "
        f"state; decoding's is that of the prefill too."
    )
    budget = (
        f"Budgets: launches at most {LAUNCHES} × LoRA's (training) and × the bare model's (decoding); training peak at "
        f"most {PEAK} × LoRA's and {PEAK_OF_PEFT} × PEFT's with `model(labels=…)`. `(over)`: not met. `full`, which "
        f"trains the base, has none."
    )
    return "\n\n".join([what, budget, "\n".join(grid(head, body))])


def _count(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:,}" if key in row else "–"


def _gigabytes(row: dict[str, Any], key: str) -> str:
    return f"{row[key] / 1e9:.2f}" if key in row else "–"


if __name__ == "__main__":
    main(sys.argv[1:])
