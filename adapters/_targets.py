"""Which linear layers a config means: regexes or presets on module names, roles by width, transformer layer indices.

Presets go by the names that models use (Llama's, Phi-3's, GPT-2's, GPT-NeoX's, BERT's, T5's, Whisper's and others'):

    qv     the projections to queries and values          kv    to keys and values
    attn   all projections of attention blocks            mlp   those of feed-forward blocks
    all    every linear layer, as in QLoRA

Where a model computes several of these in one layer (`qkv_proj`, `query_key_value`, `c_attn`, `gate_up_proj`, …), that
layer is adapted whole: with `qv` on such a model, keys are adapted too. A preset never takes output embeddings and
classifier heads, or layers that are never called (see `_left_out`); `attach` logs what was left out and what is fused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from adapters._contract import Config
from adapters._errors import AdapterError, problem
from adapters._left_out import heads, layer_index, never_called, not_layers
from adapters._weights import Layer, is_linear, layer_shape
from adapters._wrappers import named_modules

log = logging.getLogger("adapters")

# In front of names that attention and other blocks have in common: inside an attention block; outside of any.
_PARENT = r"(^|\.)[^.]*[aA]tt(ention|n)[^.]*\.(self\.)?"
_ELSEWHERE = r"(^|(?<!attn)(?<!ttention)\.)"
_QKV = "qkv_proj|query_key_value|c_attn|Wqkv|wqkv|qkv|in_proj_qkv|in_proj_qkvz|kv_b_proj|kv_proj|to_kv"
_Q = "q_proj|query|q|query_proj|q_lin|q_attn|to_q|linear_q|q_b_proj"
_K = "k_proj|key|k|key_proj|k_lin|to_k|linear_k"
_V = "v_proj|value|v|value_proj|v_lin|to_v|linear_v"
_OUT = "o_proj|o|out_lin|linear_out"
_FUSED = rf"(^|\.)({_QKV}|gate_up_proj)$|{_PARENT}in_proj$"
PRESETS: dict[str, tuple[str, ...]] = {
    "qv": (rf"(^|\.)({_QKV}|{_Q}|{_V})$", rf"{_PARENT}(in_proj|wq|wv)$"),
    "kv": (rf"(^|\.)({_QKV}|{_K}|{_V})$", rf"{_PARENT}(in_proj|wk|wv)$"),
    "attn": (
        rf"(^|\.)({_QKV}|{_Q}|{_K}|{_V}|{_OUT}|q_a_proj|kv_a_proj_with_mqa)$",
        rf"{_PARENT}(in_proj|wq|wk|wv|wo|out_proj|output_proj|dense|c_proj|Wo|proj|projection)$",
        rf"{_PARENT}output\.dense$",
    ),
    "mlp": (
        rf"{_ELSEWHERE}(gate_proj|up_proj|down_proj|gate_up_proj|fc1|fc2|fc_in|fc_out|c_fc|w1|w2|w3|wi|wi_0|wi_1|wo)$",
        rf"{_ELSEWHERE}(dense_h_to_4h|dense_4h_to_h|Wi|lin1|lin2|linear1|linear2|linear_fc1|linear_fc2)$",
        rf"{_ELSEWHERE}(intermediate\.dense|output\.dense|intermediate_dense|output_dense)$",
        r"(^|\.)[^.]*(mlp|ffn|feed_forward)[^.]*\.(c_proj|Wo|proj_in|proj_out)$",
    ),
    "all": (r"",),
}
HEADS = "heads left out"


def select_targets(model: nn.Module, cfg: Config) -> dict[str, Layer]:
    """Module name → linear layer, in model order.

    Raises AdapterError, with the names there are, when none matches; and for a layer that a regex asks for and the
    model never calls.
    """
    linear = {name: m for name, m in named_modules(model) if is_linear(m)}
    matched = _matching(linear, _patterns(cfg.targets))
    idle = never_called(model, matched)
    if _preset(cfg) is None:
        _refuse_idle(idle)
    else:
        omitted = heads(model, linear, _recognised(linear)) | idle.keys()
        matched = {n: m for n, m in matched.items() if n not in omitted}
    if cfg.layers is not None:
        wanted = {cfg.layers} if isinstance(cfg.layers, int) else set(cfg.layers)
        matched = {n: m for n, m in matched.items() if layer_index(n) in wanted}
    if cfg.roles is not None:
        hidden = _hidden_size(model)
        axis = 1 if cfg.roles == "reader" else 0  # layer_shape is (o, i)
        matched = {n: m for n, m in matched.items() if layer_shape(m)[axis] == hidden}
    if not matched:
        raise AdapterError(_nothing_matches(model, cfg, linear))
    return matched


def _nothing_matches(model: nn.Module, cfg: Config, linear: Iterable[str]) -> str:
    selection = {"targets": cfg.targets, "layers": cfg.layers, "roles": cfg.roles}
    notes = left_out(model, cfg)
    return problem(
        "targets",
        "no linear layer matches" + (f" ({_listed(notes)})" if notes else ""),
        got={k: v for k, v in selection.items() if v is not None},
        expected=f"names such as {', '.join(_folded(linear)) or '(this module has no linear layer)'}",
        remedy=f"Give regexes for these names or a preset ({' '.join(PRESETS)}).",
    )


def log_selection(model: nn.Module, cfg: Config, matched: Iterable[str]) -> None:
    """One line on what a preset left out and which fused layers it took; silent where there is neither."""
    notes = left_out(model, cfg)
    level = logging.INFO if notes.keys() <= {HEADS} else logging.WARNING
    fused = [n for n in matched if re.search(_FUSED, n)]
    if fused and _preset(cfg) not in (None, "all"):
        notes["fused layers adapted whole"] = _folded(fused)
    if notes:
        log.log(level, "targets=%s: %s", cfg.targets, _listed(notes))


def left_out(model: nn.Module, cfg: Config) -> dict[str, list[str]]:
    """What the config's preset means and does not take: reason → names. Empty for regexes."""
    preset = _preset(cfg)
    if preset is None:
        return {}
    linear = {name: m for name, m in named_modules(model) if is_linear(m)}
    matched = _matching(linear, PRESETS[preset])
    idle, omitted = never_called(model, matched), heads(model, linear, _recognised(linear))
    names = {
        HEADS: [n for n in matched if n in omitted and n not in idle],
        "layers left out that never run, since only their weights are read": list(idle),
        "weights not adapted, since no linear layer holds them": not_layers(model, preset),
    }
    return {reason: _folded(of_reason) for reason, of_reason in names.items() if of_reason}


def _listed(notes: Mapping[str, list[str]]) -> str:
    return "; ".join(f"{reason}: {', '.join(names)}" for reason, names in notes.items())


def _preset(cfg: Config) -> str | None:
    return cfg.targets if isinstance(cfg.targets, str) and cfg.targets in PRESETS else None


def _matching(linear: Mapping[str, Layer], patterns: Iterable[str]) -> dict[str, Layer]:
    return {n: m for n, m in linear.items() if any(re.search(p, n) for p in patterns)}


def _recognised(linear: Mapping[str, Layer]) -> set[str]:
    """Names that say of themselves that they belong to an attention or feed-forward block."""
    return set(_matching(linear, (*PRESETS["attn"], *PRESETS["mlp"])))


def _refuse_idle(idle: Mapping[str, str]) -> None:
    for name, parent in idle.items():
        what = f"{parent} reads this layer's weight and never calls the layer: an adapter on it would do nothing"
        raise AdapterError(problem(name, what, remedy="Leave it out of targets."))


def _patterns(targets: Any) -> tuple[str, ...]:
    if isinstance(targets, str):
        targets = PRESETS.get(targets, (targets,))
    expected = f"a preset ({' '.join(PRESETS)}), a regex or several"
    if not isinstance(targets, tuple) or not targets or not all(isinstance(t, str) for t in targets):
        raise AdapterError(problem("targets", "not a pattern", got=targets, expected=expected))
    for pattern in targets:
        try:
            re.compile(pattern)
        except re.error as error:
            raise AdapterError(problem("targets", f"bad regex ({error})", got=pattern, expected=expected)) from None
    return targets


def fold(name: str) -> str:
    """The name without its layer numbers: `layers.*.q_proj`."""
    return re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name)


def _folded(names: Iterable[str]) -> list[str]:
    """Names without layer numbers, each once: short enough for a message."""
    return list(dict.fromkeys(map(fold, names)))[:12]


def _hidden_size(model: nn.Module) -> int:
    size = getattr(getattr(model, "config", None), "hidden_size", None)
    if size is None:
        what = "the module has no config.hidden_size to tell readers from writers"
        raise AdapterError(problem("roles", what, remedy="Leave roles out."))
    return int(size)
