"""Launches of every variant, counted anew on Qwen3-0.6B's shapes with a short batch.

Not collected by its name: tests/device/test_device.py runs it in a process of its own.
"""

from __future__ import annotations

from functools import cache

import pytest

import adapters as ad
from tests.device.test_budgets import marked
from tools.benches.launches import LAUNCHES, SIZES, counted

TRAINED = [n for n, v in ad.VARIANTS.items() if not v.trains_base and v.Config is not ad.NoneConfig]
SHORT = SIZES | {"batch": 1, "tokens": 64, "rows": 2, "context": 64}


@cache
def counts(name: str) -> dict[str, int]:
    return counted(name, SHORT)


@pytest.mark.parametrize(
    ("name", "key", "base"),
    marked(TRAINED, "train", "train_launches", "lora") + marked(TRAINED, "decode", "decode_launches", "none"),
)
def test_launches(name: str, key: str, base: str) -> None:
    assert counts(name)[key] / counts(base)[key] <= LAUNCHES
