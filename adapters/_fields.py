"""Config fields that need more than a range: selections, and a rank together with the alpha that belongs to it."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable
from typing import Any

from adapters._errors import AdapterError, problem


def selection(where: str, name: str, value: Any) -> Any:
    """`targets` or `layers` in the form that is compared and saved: a single value, or a tuple of any iterable's."""
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        items = [_index(where, n, value) if name == "layers" else n for n in value]
        if isinstance(value, (set, frozenset)):  # whose order is random
            items.sort(key=None if name == "layers" else str)
        return tuple(items)
    return _index(where, value, value) if name == "layers" and value is not None else value


def _index(where: str, item: Any, whole: Any) -> int:
    try:
        number = -1 if isinstance(item, bool) else operator.index(item)
    except TypeError:
        number = -1
    if number < 0:
        expected = "integers >= 0, or None for all"
        raise AdapterError(problem(where, "layers: not layer indices", got=whole, expected=expected))
    return number


def with_rank(cfg: Any, r: int) -> Any:
    """`cfg` with another rank and the same scale s: alpha moves with r, or with √r under rslora."""
    names = {f.name for f in dataclasses.fields(cfg)}
    changes: dict[str, Any] = {"r": r}
    if r != cfg.r and "alpha" in names:
        rslora = cfg.scaling == "rslora"
        if rslora or cfg.alpha is not None:  # alpha None stands for r: s = 1 at any rank
            alpha = cfg.r if cfg.alpha is None else cfg.alpha
            changes["alpha"] = alpha * (r / cfg.r) ** (0.5 if rslora else 1.0)
    return dataclasses.replace(cfg, **changes)
