"""Kernel launches and peak bytes of every variant on Qwen3-0.6B's shapes, counted on a simulated GPU.

bf16 and no arithmetic (see _simulated.py), so a count is the same on every machine. Training launches are those of a
forward and a backward pass, without the optimizer's; decoding launches those of one token per row in a `frozen` block,
with the key/value cache. Peaks are of live tensors, with the base model and the optimizer's state.
"""

from __future__ import annotations

import gc
from typing import Any

import torch
from transformers import DynamicCache

import adapters as ad
from harness.loss import label_loss_sum
from harness.report.markdown import grid
from harness.training.masters import Masters
from tools._shared import calibration, variants
from tools.benches._qwen3 import peft_config, random_qwen3

LAUNCHES, PEAK, PEAK_OF_PEFT = 1.15, 1.05, 0.6  # budgets: ratios to LoRA's (decoding: the bare model's) and to PEFT's
LIMITS = {"train": LAUNCHES, "decode": LAUNCHES, "peak": PEAK, "peft": PEAK_OF_PEFT}
WHOLE, OURS = "lora (PEFT), model(labels=…)", "lora (PEFT)"
# A training step of batch × tokens, of which this share is labels; a decoding step of so many rows after a context.
SIZES: dict[str, Any] = {"layers": 28, "batch": 4, "tokens": 768, "share": 0.64, "rows": 64, "context": 440}
COLUMNS = [  # of the page, and what their cells hold: launches, bytes or a ratio
    ("training launches", "train_launches"),
    ("÷ LoRA", "train"),
    ("decoding launches", "decode_launches"),
    ("÷ bare model", "decode"),
    ("training peak, GB", "train_peak_bytes"),
    ("÷ LoRA", "peak"),
    ("÷ PEFT's LoRA, model(labels=…)", "peft"),
    ("decoding peak, GB", "decode_peak_bytes"),
]


def measure(args: Any) -> dict[str, Any]:
    """rows: a variant's each, and those of PEFT's LoRA."""
    names = dict.fromkeys(["none", "lora", *variants(args.variants, trains_base=True), OURS, WHOLE])
    return {"arguments": SIZES, "rows": [counted(name, SIZES) for name in names]}


def counted(name: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """One row: a variant's, or that of PEFT's LoRA (OURS with this project's loss, WHOLE with the model's own).

    2 and 3 layers are counted, and every further layer adds what the third does.
    """
    two, three = (_counts(name, layers, sizes) for layers in (2, 3))
    row = {"name": name} | {key: n + (sizes["layers"] - 2) * (three[key] - n) for key, n in two.items()}
    print(*(f"{k}={v}" for k, v in row.items()), flush=True)
    return row


def _counts(name: str, layers: int, sizes: dict[str, Any]) -> dict[str, int]:
    """The counts of a row at this number of layers."""
    from tools.benches._simulated import DEVICE, simulated  # changes the process for good

    with simulated() as meter:
        model = random_qwen3(layers, DEVICE, dtype=torch.bfloat16, vocab_size=151936)
        adapted, masters = _adapted(model, name)
        gc.collect()
        row = {"held_bytes": meter.live} | _decoding(sizes, meter, adapted)
        trainable = [p for p in model.parameters() if p.requires_grad]
        if trainable:
            groups = masters.groups(lr=1e-4, weight_decay=0.1) if masters else trainable
            optimizer = torch.optim.AdamW(groups, lr=1e-4)
            row |= _training(sizes, meter, adapted, optimizer, masters, whole=name == WHOLE)
    return row


def _adapted(model: Any, name: str) -> tuple[Any, Masters | None]:
    """The model with the row's adapter, and for a variant of this project what its optimizer updates."""
    if name in (OURS, WHOLE):
        import peft

        with model.device:
            return peft.get_peft_model(model, peft_config("lora")), None
    batches = calibration(name, torch.zeros(1, 64, dtype=torch.long, device=model.device))
    ad.attach(model, ad.VARIANTS[name].Config(), calibration=batches, seed=0)
    return model, Masters(model)


def _training(
    sizes: dict[str, Any], meter: Any, model: Any, optimizer: Any, masters: Masters | None, *, whole: bool
) -> dict[str, int]:
    """The second of two steps: launches and host waits of its passes, and its peak."""
    batch, tokens = sizes["batch"], sizes["tokens"]
    ids = torch.zeros(batch, tokens, dtype=torch.long, device=model.device)
    columns = torch.arange(tokens - round(sizes["share"] * tokens), tokens, device=model.device)
    labels = (torch.arange(batch, device=model.device)[:, None] * tokens + columns).flatten()
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


def _decoding(sizes: dict[str, Any], meter: Any, model: Any) -> dict[str, int]:
    """The second token after a prefill: launches, and the peak since before the prefill."""
    with torch.inference_mode(), ad.frozen(model):
        meter.reset()
        cache = DynamicCache()
        for width in (sizes["context"], 1, 1):
            ids = torch.zeros(sizes["rows"], width, dtype=torch.long, device=model.device)
            meter.launches.clear()
            model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return {"decode_launches": meter.launches.total(), "decode_peak_bytes": meter.peak}


# -- the page ----------------------------------------------------------------------------------------------------------
def ratios(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Name → what the budgets are about: `train` and `decode` launches, `peak` over LoRA's, `peft` over PEFT's."""
    by_name = {r["name"]: r for r in rows}
    references = {"train": ("train_launches", "lora"), "decode": ("decode_launches", "none")}
    references |= {"peak": ("train_peak_bytes", "lora"), "peft": ("train_peak_bytes", WHOLE)}
    return {
        name: {what: r[key] / by_name[other][key] for what, (key, other) in references.items() if key in r}
        for name, r in by_name.items()
    }


def over_budget(ratio: dict[str, float]) -> list[str]:
    """The budgets that these ratios break."""
    return [key for key, limit in LIMITS.items() if ratio.get(key, 0.0) > limit]


def page(measured: dict[str, Any]) -> str:
    """The section of reports/bench.md."""
    a, relative = measured["arguments"], ratios(measured["rows"])
    body = []
    for r in measured["rows"]:
        budgeted = r["name"] in ad.VARIANTS and not ad.VARIANTS[r["name"]].trains_base
        over = over_budget(relative[r["name"]]) if budgeted else []
        figures = r | relative[r["name"]]
        body.append([r["name"], *(_cell(what, figures.get(what), what in over) for _, what in COLUMNS)])
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
    return "\n\n".join([what, budget, "\n".join(grid(["adapter", *(head for head, _ in COLUMNS)], body))])


def _cell(what: str, figure: float | None, over: bool) -> str:
    if figure is None:
        return "–"
    if what.endswith("_launches"):
        return f"{figure:,}"
    return f"{figure / 1e9:.2f}" if what.endswith("_bytes") else f"{figure:.2f}" + (" (over)" if over else "")
