"""Which linear layers a config means: regexes or presets on module names, roles by width, transformer layer indices."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from adapters._contract import Config
from adapters._errors import AdapterError, problem
from adapters._weights import is_linear, layer_shape
from adapters._wrappers import named_modules

PRESETS: dict[str, tuple[str, ...]] = {
    "qv": (r"(^|\.)(q_proj|v_proj)$",),
    "kv": (r"(^|\.)(k_proj|v_proj)$",),
    "attn": (r"(^|\.)(q_proj|k_proj|v_proj|o_proj|out_proj)$",),
    "mlp": (r"(^|\.)(gate_proj|up_proj|down_proj|fc1|fc2)$",),
    "all": (r"^(?!(.*\.)?lm_head$)",),  # every linear layer but the output embedding, as in QLoRA
}


def select_targets(model: nn.Module, cfg: Config) -> dict[str, nn.Linear]:
    """Module name → linear layer, in model order. Raises AdapterError with the names there are when none matches."""
    patterns = _patterns(cfg.targets)
    linear = {name: m for name, m in named_modules(model) if is_linear(m)}
    matched = {n: m for n, m in linear.items() if any(re.search(p, n) for p in patterns)}
    if cfg.layers is not None:
        matched = {n: m for n, m in matched.items() if _layer_index(n) in _layer_set(cfg.layers)}
    if cfg.roles is not None:
        hidden = _hidden_size(model)
        axis = 1 if cfg.roles == "reader" else 0  # layer_shape is (o, i)
        matched = {n: m for n, m in matched.items() if layer_shape(m)[axis] == hidden}
    if not matched:
        asked = {"targets": cfg.targets, "layers": cfg.layers, "roles": cfg.roles}
        raise AdapterError(
            problem(
                "targets",
                "no linear layer matches",
                got={k: v for k, v in asked.items() if v is not None},
                expected=f"names such as {', '.join(_kinds(linear)) or '(this module has no linear layer)'}",
                remedy=f"Give regexes for these names or a preset ({' '.join(PRESETS)}).",
            )
        )
    return matched


def _patterns(targets: Any) -> tuple[str, ...]:
    if isinstance(targets, str):
        targets = PRESETS.get(targets, (targets,))
    expected = f"a preset ({' '.join(PRESETS)}), a regex or several"
    if not isinstance(targets, (tuple, list)) or not targets or not all(isinstance(t, str) for t in targets):
        raise AdapterError(problem("targets", "not a pattern", got=targets, expected=expected))
    for pattern in targets:
        try:
            re.compile(pattern)
        except re.error as error:
            raise AdapterError(problem("targets", f"bad regex ({error})", got=pattern, expected=expected)) from None
    return tuple(targets)


def _kinds(names: Any) -> list[str]:
    """Names with layer numbers folded (`layers.*.q_proj`), each once: short enough for an error message."""
    return list(dict.fromkeys(re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", n) for n in names))[:12]


def _layer_index(name: str) -> int | None:
    """The first number in a dotted module name: `model.layers.3.self_attn.q_proj` → 3."""
    found = re.search(r"(^|\.)(\d+)(\.|$)", name)
    return int(found[2]) if found else None


def _layer_set(layers: Any) -> set[int]:
    listed = {layers} if type(layers) is int else layers
    if isinstance(listed, str) or not all(type(n) is int and n >= 0 for n in listed):
        raise AdapterError(
            problem("layers", "not layer indices", got=layers, expected="integers >= 0, or null for all")
        )
    return set(listed)


def _hidden_size(model: nn.Module) -> int:
    size = getattr(getattr(model, "config", None), "hidden_size", None)
    if size is None:
        raise AdapterError(
            problem(
                "roles", "the module has no config.hidden_size to tell readers from writers", remedy="Leave roles out."
            )
        )
    return int(size)
