"""What a preset leaves out of a model, decided by structure: heads, layers that never run, weights without a layer."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any

from torch import nn

from adapters._weights import Layer


def heads(model: nn.Module, linear: Mapping[str, Layer], recognised: Collection[str]) -> set[str]:
    """Names of output embeddings and classifier heads among the linear layers.

    These are: what a transformers model returns from `get_output_embeddings`, a layer that shares its weight with an
    embedding, what lies outside a model's `base_model`, and what comes after the last numbered block and is not
    `recognised` as a part of attention or feed-forward blocks (T5's `qa_outputs`, BERT's pooler, an own `lm_head`).
    """
    outside = output_embeddings(model) | _outside_base(model)
    tied = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    found = {n for n, m in linear.items() if id(m) in outside or id(m.weight) in tied}
    names = list(linear)
    blocks = [place for place, n in enumerate(names) if layer_index(n) is not None]
    return found | {n for n in names[blocks[-1] + 1 :] if n not in recognised} if blocks else found


def layer_index(name: str) -> int | None:
    """The first number in a dotted module name: `model.layers.3.self_attn.q_proj` → 3."""
    number = re.search(r"(^|\.)(\d+)(\.|$)", name)
    return int(number[2]) if number else None


def output_embeddings(model: nn.Module) -> set[int]:
    """Ids of the output embeddings of the model and of transformers models inside it."""
    embeddings = set()
    for part in model.modules():
        if callable(ask := getattr(part, "get_output_embeddings", None)):
            try:
                embeddings.add(id(ask()))
            except (NotImplementedError, AttributeError):  # some classes have the method and no such layer
                continue
    return embeddings


def _outside_base(model: nn.Module) -> set[int]:
    """Ids of modules outside the `base_model` of a transformers model, which is where its heads are."""
    outside: set[int] = set()
    for part in model.modules():
        prefix = getattr(part, "base_model_prefix", "")
        base = getattr(part, prefix, None) if prefix and isinstance(prefix, str) else None
        if isinstance(base, nn.Module):
            outside |= {id(m) for m in part.modules()} - {id(m) for m in base.modules()}
    return outside


def not_layers(model: nn.Module, preset: str) -> list[str]:
    """Weights that the preset means and no linear layer holds.

    These are: experts of a mixture in one parameter (experts, o, i), for `mlp` and `all`; and the input projection of
    torch's MultiheadAttention, for all presets but `mlp`.
    """
    names = []
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if isinstance(module, nn.MultiheadAttention):
            names += [f"{name}.{k}" for k in own if k.endswith("_weight") and preset != "mlp"]
        elif preset in ("mlp", "all") and not isinstance(module, nn.modules.conv._ConvNd):
            names += [f"{name}.{k}" for k, p in own.items() if p.dim() == 3 and min(p.shape) > 1]
    return names


def never_called(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Layer name → its parent's class, where that class uses the layer's weight and never calls the layer.

    MultiheadAttention's `out_proj` and Mamba's `dt_proj` are such layers: hooks on them would never run. Decided from
    the class's source; without source nothing is claimed, and `_idle` names the layer once the model has run.
    """
    idle = {}
    for name in names:
        parent, _, child = name.rpartition(".")
        kind: Any = type(model.get_submodule(parent))
        if _mentions_weight(kind, child) and child in _weights_only(kind):
            idle[name] = kind.__name__
    return idle


def _mentions_weight(kind: type[Any], child: str) -> bool:
    """Whether any method could read the child's weight: much quicker than the class's source, which settles it."""
    methods = (inspect.unwrap(f) for base in kind.__mro__ for f in vars(base).values() if inspect.isfunction(f))
    return any({child, "weight"} <= {*f.__code__.co_names} for f in methods if inspect.isfunction(f))


@cache
def _weights_only(kind: type[Any]) -> frozenset[str]:
    """Attributes of which the class's methods read `self.<attribute>.weight` and make no other use."""
    read: set[str] = set()
    used: set[str] = set()
    for base in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        try:
            nodes = list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(base)))))
        except (OSError, TypeError, SyntaxError):
            return frozenset()
        if any(isinstance(n, ast.Name) and n.id == "getattr" for n in nodes):  # layers may be called by their names
            return frozenset()
        attributes = [n for n in nodes if isinstance(n, ast.Attribute)]
        tensors = [n for n in attributes if n.attr in ("weight", "bias") and _is_of_self(n.value)]
        owners = {id(n.value) for n in tensors}
        used |= {n.attr for n in attributes if _is_of_self(n) and isinstance(n.ctx, ast.Load) and id(n) not in owners}
        methods = [n for n in nodes if isinstance(n, ast.FunctionDef)]
        setup = {id(n) for m in methods if re.match(r"_*(init|reset)", m.name) for n in ast.walk(m)}
        read |= {n.value.attr for n in tensors if n.attr == "weight" and id(n) not in setup}  # type: ignore[attr-defined]
    return frozenset(read - used)


def _is_of_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
