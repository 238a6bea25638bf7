"""Second moments C = E[xxᵀ] of the inputs of chosen layers, streamed over calibration batches with padding masked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn


def second_moments(model: nn.Module, layers: dict[str, nn.Linear], batches: Iterable[Any]) -> dict[str, Tensor]:
    """Module name → C (i, i)."""
    raise NotImplementedError
