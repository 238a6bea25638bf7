"""Decoding on a CPU through oneDNN's matrix products in fp32.

ATen gives fp32 products to MKL, which runs AVX2 code on AMD processors; oneDNN uses AVX-512 there and takes about half
the time. Values differ by rounding. Training and losses keep ATen's choice, so that their numbers do not move.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn


@contextmanager
def onednn_linears(model: nn.Module) -> Iterator[None]:
    """In the block every plain fp32 nn.Linear on a CPU computes with oneDNN, without gradients; its hooks still run.

    Subclasses (quantized layers), layers whose `forward` somebody replaced, and builds without oneDNN stay as they are.
    """
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    layers = [m for m in model.modules() if _is_plain(m)] if available else []
    for layer in layers:
        layer.forward = partial(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the instance's attribute: the class's method shows again


def _is_plain(m: nn.Module) -> TypeGuard[nn.Linear]:
    if type(m) is not nn.Linear or "forward" in vars(m):
        return False
    return m.weight.dtype == torch.float32 and m.weight.device.type == "cpu"


def _forward(layer: nn.Linear, input: Float[Tensor, "*B i"]) -> Float[Tensor, "*B o"]:
    """torch's own operator for a linear layer by oneDNN, which torch.compile's CPU code calls."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(input, layer.weight, layer.bias, "none", [], "")
    return y
