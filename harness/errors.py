"""Refusals of bad input: one line in the project's form (`adapters.problem`) and a non-zero exit code."""

from __future__ import annotations

import math
from typing import Any

from adapters import NOTHING, problem


class BadInput(SystemExit):
    """Bad input: ends the process with one line and a non-zero exit code."""


def refuse(where: str, what: str, *, got: object = NOTHING, expected: str = "", remedy: str = "") -> BadInput:
    return BadInput(problem(where, what, got=got, expected=expected, remedy=remedy))


def reason_of(error: BaseException) -> str:
    """An error of the system or a library, for a message: its first line, or its class if it has no text."""
    text = getattr(error, "strerror", None) or str(error)
    return text.strip().partition("\n")[0].rstrip(".") or type(error).__name__


def integer(where: str, value: Any, *, lo: int, hi: int | None = None, optional: bool = False) -> Any:
    """`value`, an int inside the bounds. Raises BadInput."""
    if value is None and optional:
        return None
    if type(value) is not int or value < lo or (hi is not None and value > hi):
        expected = f"an integer >= {lo}" + (f" and <= {hi}" if hi is not None else "")
        expected += ", or null" if optional else ""
        raise refuse(where, "out of range", got=value, expected=expected)
    return value


def number(
    where: str,
    value: Any,
    *,
    lo: int | float | None = None,
    above: int | float | None = None,
    hi: int | float | None = None,
) -> float:
    """`value` as a finite float inside the bounds. Raises BadInput."""
    expected = "a finite number" + (f" >= {lo:g}" if lo is not None else "")
    expected += (f" > {above:g}" if above is not None else "") + (f" and <= {hi:g}" if hi is not None else "")
    is_number = type(value) in (int, float) and math.isfinite(value)
    outside = (lo is not None and value < lo) or (above is not None and value <= above) if is_number else True
    if outside or (hi is not None and value > hi):
        raise refuse(where, "out of range", got=value, expected=expected)
    return float(value)
