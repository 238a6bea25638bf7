"""Refusals of bad input: one line in the project's form (`adapters.problem`) and a non-zero exit code."""

from __future__ import annotations

import math
import sys
from typing import Any

from adapters import NOTHING, problem

Number = int | float


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
        limit = f" and <= {hi}" if hi is not None else ""
        expected = f"an integer >= {lo}{limit}{', or null' if optional else ''}"
        reason = "out of range" if type(value) is int else "not an integer"
        raise refuse(where, reason, got=value, expected=expected)
    return value


def number(
    where: str, value: Any, *, lo: Number = -math.inf, above: Number = -math.inf, hi: Number = sys.float_info.max
) -> float:
    """`value` as a finite float inside the bounds. Raises BadInput."""
    if type(value) not in (int, float) or not (lo <= value <= hi and value > above):  # also for NaN
        bounds = {">=": lo, ">": above, "and <=": hi}
        limits = [f"{sign} {bound:g}" for sign, bound in bounds.items() if abs(bound) < sys.float_info.max]
        reason = "out of range" if type(value) in (int, float) else "not a number"
        raise refuse(where, reason, got=value, expected=" ".join(["a finite number", *limits]))
    return float(value)
