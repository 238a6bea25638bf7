"""Tries what each variant can do on a quantized base: attach, identity, train, detach, save, load: `make capabilities`.

python -m tools.probe_quantized
    variants=all         or <name>,<name>
    device=auto
    out=<file>           JSON; reports/capabilities.json fills the 4-bit and 8-bit columns of the results table
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

import adapters as ad
from adapters._weights import forbid_cpu_packing
from harness.cli.arguments import parse
from harness.cli.quiet import quiet
from harness.device import usable_device
from harness.errors import reason_of
from harness.files import write_text
from harness.paths import under_root
from tools._shared import calibration, variants

QUANTIZATIONS = ("4bit", "8bit")
STEPS = 3  # tensors behind a zero factor (LoRA's A behind B = 0) have no gradient in the first


@dataclass
class Arguments:
    variants: list[str] = field(default_factory=lambda: ["all"])
    device: str = "auto"
    out: str = ""


class Unfit(Exception):
    """A check failed; the text says which."""


def probe(variant: str, quantization: str, device: str = "cpu") -> str:
    """`yes`, or the reason why this variant cannot adapt a `quantization` base on `device`."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            _try(variant, quantized_model(quantization, device), Path(folder) / "adapter.safetensors")
    except (Unfit, ad.AdapterError, ImportError) as reason:
        return str(reason)
    except RuntimeError as error:  # a kernel that is missing or does not take these shapes
        return f"{type(error).__name__}: {reason_of(error)}"
    return "yes"


def quantized_model(quantization: str, device: str = "cpu", dtype: Any = None, **settings: Any) -> Any:
    """A random two-layer Qwen3, 64 wide; its linear layers except the head are bitsandbytes' for `4bit` and `8bit`."""
    sizes = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "initializer_range": 0.1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(Qwen3Config(**(sizes | heads | settings)))
    model = model.to(dtype or torch.float32)
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]
    for name in names if quantization != "none" else []:
        model.set_submodule(name, quantized_linear(model.get_submodule(name), quantization))
    forbid_cpu_packing(model)
    return model.to(device).eval()


def quantized_linear(linear: Any, quantization: str) -> Any:
    """bitsandbytes' layer with this layer's weight and bias; it quantizes when it is moved to its device."""
    import bitsandbytes as bnb

    size, bias = (linear.in_features, linear.out_features), linear.bias is not None
    if quantization == "4bit":
        kind = {"compute_dtype": linear.weight.dtype, "quant_type": "nf4", "compress_statistics": False}
        layer = bnb.nn.Linear4bit(*size, bias=bias, **kind)
    else:
        layer = bnb.nn.Linear8bitLt(*size, bias=bias, has_fp16_weights=False, threshold=6.0)
    for name, p in linear.named_parameters():
        getattr(layer, name).data = p.data
    return layer


def _try(name: str, model: Any, path: Path) -> None:
    """Raises Unfit, or what the library or the quantized layer raises, at the first step that does not work."""

    def logits(mode: bool) -> Any:
        with torch.set_grad_enabled(mode):  # the hooks' two paths: training, and evaluation from cached factors
            return model.train(mode)(ids).logits.detach()

    ids = torch.arange(64, device=model.device).view(4, 16) * 5 % 128
    variant, bare = ad.VARIANTS[name], {mode: logits(mode) for mode in (True, False)}
    handle = ad.attach(model, variant.Config(), seed=0, calibration=calibration(name, ids))
    for mode, expected in bare.items():
        change = (logits(mode) - expected).square().mean().sqrt() / expected.std()
        if not change <= (0.1 if variant.identity_atol else 0):  # 8-bit rounding amplifies small changes
            raise Unfit(f"attaching changes the model's output by {change:.1e} of its spread")
    start = {n: p.detach().clone() for n, p in handle.trainable().items()}
    for _ in range(STEPS if start else 0):
        optimizer = torch.optim.SGD(ad.parameter_groups(model, lr=0.1))
        model.train()(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for n, p in handle.trainable().items():
        if torch.equal(p, start[n]) or not p.isfinite().all():
            raise Unfit(f"training does not move {n}" if p.isfinite().all() else f"training makes {n} NaN or Inf")
    trained = logits(False)
    ad.save(model, path)
    ad.detach(model)
    if not torch.equal(logits(False), bare[False]):
        raise Unfit("detaching does not restore the model's output")
    ad.load(model, path)
    if not torch.equal(logits(False), trained):
        raise Unfit("a saved adapter computes something else once loaded")


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    quiet()
    names, device = variants(args.variants, trains_base=True), usable_device(args.device)
    answers: dict[str, dict[str, str]] = {}
    for name in names:
        answers[name] = {q: probe(name, q, device) for q in QUANTIZATIONS}
        print(f"{name:18}" + "  ".join(f"{q}: {answer}" for q, answer in answers[name].items()), flush=True)
    if args.out:
        place = under_root(args.out)
        known = json.loads(place.read_text()) if place.exists() else {}
        if known.get("device") == device:  # those that were not asked about keep their answers
            answers = known["variants"] | answers
        write_text(place, json.dumps({"device": device, "variants": answers}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
