"""What the tests know about a variant, in tests/oracles/<variant>.py, found by its name. The file and each name in it
are optional: a test without its entry skips and says so.

    dense(L)   W', b' of one adapted layer in fp64, from the paper's formula and nothing of the variant's own code
    COUNT      published number of trainable parameters: defaults, on Qwen3-0.6B's shapes
    SETTINGS   settings that change the formula; each is tested besides the defaults
    SMALL      config fields at the toy model's size (16 to 24 wide), where the defaults do not fit it
    DETACHED   trainable tensors whose gradient leaves out a quantity that the paper takes as a constant
    PEFT       label → PEFT's config class and fields, of the variant's own kind: PEFT trains it, import_peft reads it
    TWINS      label → our settings, PEFT's config class and fields that mean the same, on q_proj and v_proj
    pairs(site, layer)  for TWINS: our tensor → PEFT's parameter, its value from ours, our gradient from its gradient
    OVER       budget of tests/device/test_budgets.py (train, decode, peak or peft) → why it is not met yet
    BF16_ATOL  how far from the base model's logits the variant starts in bf16, where the start is no exact identity
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any

ORACLES: dict[str, ModuleType] = {
    module.name: importlib.import_module(f"tests.oracles.{module.name}") for module in pkgutil.iter_modules(__path__)
}


def oracle(variant: str, name: str, default: Any = None) -> Any:
    """An entry of tests/oracles/<variant>.py, or the default."""
    return getattr(ORACLES.get(variant), name, default)
