"""The one way to read a layer's weight: plain, 4-bit or 8-bit (bitsandbytes), as dense values."""

from __future__ import annotations

import hashlib
import sys
from typing import Any, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adapters._errors import AdapterError, problem


def quantization(layer: nn.Module) -> str | None:
    """`"4bit"`, `"8bit"`, None for a plain nn.Linear; raises AdapterError for classes this library cannot read."""
    bnb = sys.modules.get("bitsandbytes")  # a layer of its classes cannot exist before it is imported
    if bnb is not None:
        if isinstance(layer, bnb.nn.Linear4bit):
            return "4bit"
        if isinstance(layer, bnb.nn.Linear8bitLt):
            return "8bit"
    weight = getattr(layer, "weight", None)
    if isinstance(layer, nn.Linear) and isinstance(weight, Tensor) and weight.is_floating_point():
        return None
    raise AdapterError(
        problem(
            type(layer).__name__,
            "cannot read this layer's weight",
            expected="nn.Linear, bitsandbytes Linear4bit or Linear8bitLt",
            remedy="Choose other targets.",
        )
    )


def is_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """True for nn.Linear and its quantized subclasses."""
    return isinstance(module, nn.Linear)


def layer_shape(layer: nn.Linear) -> tuple[int, int]:
    """(o, i) from the features, since a packed 4-bit weight's own shape is another."""
    return layer.out_features, layer.in_features


@torch.no_grad()
def dense_weight(layer: nn.Linear) -> Float[Tensor, "o i"]:
    """The values the layer multiplies by: (o, i); never a view that may be written.

    4-bit equals the layer's own forward; 8-bit is CB·(SCB/127), which leaves out LLM.int8's rounding of activations.
    """
    kind = quantization(layer)
    if kind is None:
        return layer.weight.detach()
    if kind == "4bit":
        return _dense_4bit(layer)
    return _dense_8bit(layer)


def _dense_4bit(layer: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    refuse_packed(layer)
    state = layer.weight.quant_state
    if state is None:
        raise AdapterError(
            problem(
                type(layer).__name__, "the weight is not quantized yet", remedy="Move the model to its device first."
            )
        )
    return dequantize_4bit(layer.weight.data, state).reshape(layer_shape(layer))


def _dense_8bit(layer: Any) -> Tensor:
    # Before the first forward the codes hang on the weight, afterwards on the layer's state.
    codes, scale = layer.state.CB, layer.state.SCB
    if codes is None:
        codes, scale = layer.weight.CB, layer.weight.SCB
    if codes is None:
        codes, scale = layer.weight.data, layer.weight.SCB
    if codes is None or scale is None or codes.dtype != torch.int8:
        raise AdapterError(
            problem(
                type(layer).__name__, "the weight is not quantized yet", remedy="Move the model to its device first."
            )
        )
    return codes.float() * (scale.float() / 127).unsqueeze(1)  # (o, i)


def refuse_packed(layer: Any) -> None:
    """bitsandbytes' AVX512-BF16 repacking is lossy and cuts gradients; a repacked layer cannot be read back."""
    if getattr(getattr(layer.weight, "quant_state", None), "packing_format_for_cpu", False):
        raise AdapterError(
            problem(
                type(layer).__name__,
                "bitsandbytes repacked this 4-bit weight for CPU inference, which cannot be undone",
                remedy="Reload the model and attach before the first forward without gradients.",
            )
        )


def forbid_cpu_packing(model: nn.Module) -> None:
    """Keeps bitsandbytes from repacking 4-bit weights in the first grad-free forward on AVX512-BF16 CPUs."""
    bnb = sys.modules.get("bitsandbytes")
    if bnb is None:
        return
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            refuse_packed(module)
            module.support_avx512bf16_for_cpu = False


def compute_dtype(model: nn.Module, layer: nn.Linear) -> torch.dtype:
    """The dtype of the layer's activations: its weight's, or for a quantized layer the model's floating dtype."""
    if quantization(layer) is None:
        return layer.weight.dtype
    kind = getattr(getattr(model, "config", None), "dtype", None)
    if isinstance(kind, torch.dtype):
        return kind
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def values_sha256(weight: Tensor) -> str:
    """SHA-256 of shape and values, the same for a bf16 weight and its exact fp32 copy."""
    exact = torch.promote_types(weight.dtype, torch.float32)
    digest = hashlib.sha256(f"{tuple(weight.shape)}".encode())
    for rows in weight.detach().split(max(1, (1 << 24) // max(1, weight[0].numel()))):  # bounded copies
        digest.update(rows.to(device="cpu", dtype=exact).contiguous().numpy().tobytes())
    return digest.hexdigest()
