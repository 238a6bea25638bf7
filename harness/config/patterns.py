"""Refuses regexes for layer names that could backtrack forever; they may come from a downloaded config."""

from __future__ import annotations

import math
import re
from typing import Any

from harness.errors import refuse

LONGEST = 200  # characters
MOST = 20.0  # log2 of the ways to match one name


def check_patterns(targets: Any) -> None:
    """Raises BadInput for a regex that could backtrack forever. The adapter itself refuses invalid regexes."""
    for pattern in [targets] if isinstance(targets, str) else targets if isinstance(targets, list | tuple) else []:
        if not isinstance(pattern, str):
            continue
        expected = "no nested repetition, and few of * + ? |"
        try:
            if len(pattern) > LONGEST:
                got, expected = f"{pattern[:40]}…", f"at most {LONGEST} characters"
            elif _ways(re._parser.parse(pattern)) > MOST:  # type: ignore[attr-defined]
                got = pattern
            else:
                continue
        except re.error:
            continue
        except (OverflowError, RecursionError):
            got = pattern
        raise refuse("targets", "regex could backtrack forever", got=got, expected=expected)


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
