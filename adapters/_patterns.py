"""Regexes that cannot take long on a module's name; they may come from a downloaded file."""

from __future__ import annotations

import math
import re
from typing import Any

LONGEST = 1000  # characters
MOST = 20.0  # log2 of the ways to match one name


def harmless(pattern: str) -> bool:
    """Whether a regex is short and cannot backtrack for long. An invalid one is: compiling it raises."""
    try:
        return len(pattern) <= LONGEST and _ways(re._parser.parse(pattern)) <= MOST  # type: ignore[attr-defined]
    except re.error:
        return True
    except (OverflowError, RecursionError):
        return False


def _ways(tree: Any) -> float:
    """log2 of the number of ways a parsed regex can split up a name; each unbounded repetition counts 5."""
    total = 0.0
    for operation, argument in tree:
        kind = str(operation)
        if kind.endswith("_REPEAT"):
            low, high, inner = argument
            each = _ways(inner)
            if low == high:
                total += each * low
            else:
                total += each + 1 if high == 1 else math.inf if each else 5
        elif kind == "BRANCH":
            total += math.log2(sum(2 ** min(_ways(branch), 1000) for branch in argument[1]))
        elif kind in ("SUBPATTERN", "ASSERT", "ASSERT_NOT"):
            total += _ways(argument[-1])
        elif kind == "ATOMIC_GROUP":
            total += _ways(argument)
    return total
