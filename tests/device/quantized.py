"""Quantized layers for the simulated device, as bitsandbytes leaves those that it has moved to a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from tools.benches._simulated import DEVICE


def quantized(model: Any, kind: str) -> Any:
    """The model with bitsandbytes' `4bit` or `8bit` layers on the device in place of its linear ones but the head."""
    for name, m in list(model.named_modules()):
        if type(m) is nn.Linear and name != "lm_head":
            model.set_submodule(name, _quantized_layer(m, kind))
    return model


def _quantized_layer(linear: nn.Linear, kind: str) -> Any:
    """As bitsandbytes leaves a layer that was moved to a GPU: codes and scales on the device."""
    import bitsandbytes as bnb

    o, i, dtype = linear.out_features, linear.in_features, linear.weight.dtype
    zeros = lambda *shape, **kw: torch.zeros(*shape, device=DEVICE, **kw)
    with _disable_current_modes(), torch.device("meta"):  # bitsandbytes' parameters cannot be built from fake tensors
        if kind == "4bit":
            options = {"compute_dtype": dtype, "quant_type": "nf4", "compress_statistics": False}
            layer = bnb.nn.Linear4bit(i, o, bias=False, **options)
        else:
            layer = bnb.nn.Linear8bitLt(i, o, bias=False, has_fp16_weights=False, threshold=6.0)
    if kind == "4bit":
        weight: Any = nn.Parameter(zeros(o * i // 2, 1, dtype=torch.uint8), requires_grad=False)
        blocks = {"absmax": zeros(o * i // 64), "code": zeros(16), "blocksize": 64}
        state = bnb.functional.QuantState(**blocks, shape=torch.Size((o, i)), quant_type="nf4", dtype=dtype)
        weight.quant_state = layer.quant_state = state
        weight.bnb_quantized = True
    else:
        weight = nn.Parameter(zeros(o, i, dtype=torch.int8), requires_grad=False)
        weight.CB, weight.SCB = weight.data, zeros(o)
    del layer._parameters["weight"]
    layer.weight = weight
    return layer
