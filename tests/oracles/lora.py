"""LoRA (arXiv 2106.09685), eq. 3."""

from __future__ import annotations

from tests.dense import Dense, Layer, scale

COUNT = 4_587_520
SETTINGS = [{"scaling": "rslora"}]
PATTERNS = {"rank_pattern": {"v_proj": 3}, "alpha_pattern": {r"layers\.1\.self_attn\.q_proj": 7, "q_proj": 5}}
PEFT = {
    "lora": ("LoraConfig", {"r": 4, "lora_alpha": 6, "lora_dropout": 0.1}),
    "rslora": ("LoraConfig", {"r": 4, "lora_alpha": 6, "use_rslora": True}),
    "patterns": ("LoraConfig", {"r": 4, **PATTERNS}),
    "rs patterns": ("LoraConfig", {"r": 4, "use_rslora": True, **PATTERNS}),
    "all-linear": ("LoraConfig", {"r": 4, "target_modules": "all-linear"}),
    "one layer": ("LoraConfig", {"r": 4, "layers_to_transform": [1]}),
    "regex": ("LoraConfig", {"r": 4, "target_modules": r".*\.0\..*(q|up)_proj", "init_lora_weights": "gaussian"}),
}


def dense(L: Layer) -> Dense:
    return L.W + scale(L.cfg) * L.t["lora_B"] @ L.t["lora_A"], L.b
