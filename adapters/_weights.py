"""The one way to read a layer's weight: nn.Linear, GPT-2's Conv1D, 4-bit or 8-bit (bitsandbytes), as dense values."""

from __future__ import annotations

import copy
import hashlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adapters._errors import AdapterError, problem

if TYPE_CHECKING:
    Layer = nn.Linear  # what the code may use of a layer; it may also be a Conv1D, which has weight and bias as well
else:
    Layer = nn.Module

PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # FP8 weights are nothing without their scales


def quantization(layer: nn.Module) -> str | None:
    """`"4bit"`, `"8bit"`, or None for a plain layer; raises AdapterError for classes this library cannot read."""
    bnb = sys.modules.get("bitsandbytes")  # a layer of its classes cannot exist before it is imported
    if bnb is not None:
        if isinstance(layer, bnb.nn.Linear4bit):
            return "4bit"
        if isinstance(layer, bnb.nn.Linear8bitLt):
            if layer.state.has_fp16_weights:
                remedy = "Load the model with has_fp16_weights=False."
                raise AdapterError(problem(type(layer).__name__, "quantizes 16-bit weights as it goes", remedy=remedy))
            return "8bit"
    weight = getattr(layer, "weight", None)
    plain = type(weight) in (nn.Parameter, Tensor)  # other libraries' tensor classes hide codes behind a float dtype
    if is_linear(layer) and plain and layer.weight.dtype in PLAIN and layer.weight.dim() == 2:  # else sharded, or empty
        return None
    raise AdapterError(
        problem(
            type(layer).__name__,
            "cannot read this layer's weight",
            expected="nn.Linear, Conv1D, bitsandbytes Linear4bit or Linear8bitLt",
            remedy="Choose other targets.",
        )
    )


def is_linear(module: nn.Module) -> TypeGuard[Layer]:
    """True for nn.Linear, its quantized subclasses, and GPT-2's Conv1D."""
    return isinstance(module, nn.Linear) or is_conv1d(module)


def is_conv1d(module: nn.Module) -> bool:
    """True for transformers' Conv1D: a linear layer whose weight is stored transposed, (i, o)."""
    transformers = sys.modules.get("transformers.pytorch_utils")  # loaded by every model that has one
    return transformers is not None and isinstance(module, transformers.Conv1D)


def layer_shape(layer: Layer) -> tuple[int, int]:
    """(o, i) from the features, since the shape of a packed 4-bit weight is another."""
    if is_conv1d(layer):
        i, o = layer.weight.shape
        return o, i
    return layer.out_features, layer.in_features


def refuse_unloaded(modules: Mapping[str, nn.Module]) -> None:
    """Raises AdapterError where a module's own parameters are not in memory: not loaded, or offloaded by accelerate."""
    for name, module in modules.items():
        if any(p.is_meta for p in module.parameters(recurse=False)):
            offloaded = getattr(getattr(module, "_hf_hook", None), "offload", False)
            what = "accelerate offloads this layer" if offloaded else "this layer is on the meta device"
            remedy = "Load the whole model into memory first, without offloading."
            raise AdapterError(problem(name, what, remedy=remedy))


@torch.no_grad()
def dense_weight(layer: Layer) -> Float[Tensor, "o i"]:
    """The values the layer multiplies by: (o, i); may share the layer's memory: not to be written to.

    4-bit: fp32 values, which the layer rounds to its compute dtype; with that rounding they equal its own forward.
    8-bit: CB·(SCB/127) in fp32, exact for a layer in training mode on CPU; elsewhere LLM.int8 also rounds activations.
    Raises AdapterError for a weight that cannot be read, among them one that is not in memory.
    """
    refuse_unloaded({type(layer).__name__: layer})
    kind = quantization(layer)
    if kind is None:
        return layer.weight.detach().T if is_conv1d(layer) else layer.weight.detach()
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
    state = copy.copy(state)
    state.dtype = torch.float32  # it holds the dtype that was quantized, to which nothing but dequantize_4bit rounds
    W: Tensor = dequantize_4bit(layer.weight.data, state)
    return W if W.shape == layer_shape(layer) else W.T  # quantized as (i, o), which bitsandbytes still accepts


def _dense_8bit(layer: Any) -> Tensor:
    # Before the first forward the codes hang on the weight, afterwards on the layer's state.
    places = (layer.state, layer.weight)
    scale = next((s for s in (p.SCB for p in places) if s is not None), None)
    codes = next((c for c in (p.CB for p in places) if c is not None), layer.weight.data)
    if scale is None or codes.dtype != torch.int8:
        raise AdapterError(
            problem(
                type(layer).__name__, "the weight is not quantized yet", remedy="Move the model to its device first."
            )
        )
    W: Tensor = codes.float() * scale.float().mul(1 / 127).unsqueeze(1)  # (o, i), in bitsandbytes' order of operations
    return W


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
    """Keeps bitsandbytes from repacking 4-bit weights in the first grad-free forward on AVX512-BF16 CPUs.

    Detach leaves it so: a weight repacked later could not be adapted again. Raises AdapterError for a repacked weight.
    """
    bnb = sys.modules.get("bitsandbytes")
    if bnb is None:
        return
    layers = [m for m in model.modules() if isinstance(m, bnb.nn.Linear4bit)]
    for layer in layers:
        refuse_packed(layer)
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False


def quantized_biases(model: nn.Module) -> list[nn.Parameter]:
    """Biases that a forward pass of bitsandbytes casts in place to the activations' dtype, which may lose digits."""
    bnb = sys.modules.get("bitsandbytes")
    if bnb is None:
        return []
    kinds = (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt)
    return [m.bias for m in model.modules() if isinstance(m, kinds) and m.bias is not None]


def compute_dtype(model: nn.Module, layer: Layer) -> torch.dtype:
    """The dtype of the layer's activations: that of its weight, or of the model's other weights if it is quantized."""
    if quantization(layer) is None:
        return layer.weight.dtype
    kinds = (p.dtype for p in model.parameters() if type(p) is nn.Parameter and p.is_floating_point())
    # Embeddings and norms are never quantized. Not config.dtype, which a cast of the model does not change.
    return next(kinds, torch.float32)


def values_sha256(weight: Tensor) -> str:
    """SHA-256 of shape and values, the same for a bf16 weight and its exact fp32 copy."""
    exact = torch.promote_types(weight.dtype, torch.float32)
    digest = hashlib.sha256(f"{tuple(weight.shape)}".encode())
    for rows in torch.split(weight.detach(), max(1, (1 << 24) // max(1, weight[0].numel()))):  # bounded copies
        digest.update(rows.to(device="cpu", dtype=exact).contiguous().numpy().tobytes())
    return digest.hexdigest()
