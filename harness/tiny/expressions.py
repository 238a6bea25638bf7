"""Arithmetic expressions over a problem's numbers: evaluate, write out as steps, and solve for one unknown.

An expression is a leaf or `(op, left, right)`. A leaf is an `int` (index into the problem's numbers) or a `str` (a
constant that the text names in words, such as the 7 days of a week). One definition gives the worked solution of a
question and, by inverting the path from the result to the unknown, that of its self-verification and FOBAR rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

Expr: TypeAlias = int | str | tuple[str, Any, Any]  # Any: an Expr again (run-time type checkers reject recursion)


class NotIntegerError(ValueError):
    """A step of the expression is no positive integer, so these numbers make no problem."""


def apply(op: str, left: int, right: int) -> int:
    """The value of one step. Raises NotIntegerError where the result is no positive integer."""
    if op == "/":
        if right == 0 or left % right:
            raise NotIntegerError(f"{left}/{right}")
        value = left // right
    else:
        value = {"+": left + right, "-": left - right, "*": left * right}[op]
    if value <= 0:
        raise NotIntegerError(f"{left}{op}{right}")
    return value


def evaluate(expr: Expr, numbers: Sequence[int], steps: list[str]) -> int:
    """The value of `expr`; each operation is appended to `steps` as `a+b=c`, operands first."""
    if isinstance(expr, int):
        return numbers[expr]
    if isinstance(expr, str):
        return int(expr)
    op, left_expr, right_expr = expr
    left = evaluate(left_expr, numbers, steps)
    right = evaluate(right_expr, numbers, steps)
    value = apply(op, left, right)
    steps.append(f"{left}{op}{right}={value}")
    return value


def infix(expr: Expr, numbers: Sequence[int]) -> str:
    """`expr` as arithmetic, every inner operation in parentheses: `14+(4*6)`."""
    if isinstance(expr, tuple):
        op, *operands = expr
        left, right = (f"({infix(e, numbers)})" if isinstance(e, tuple) else infix(e, numbers) for e in operands)
        return f"{left}{op}{right}"
    return expr if isinstance(expr, str) else str(numbers[expr])


def count_leaf(expr: Expr, index: int) -> int:
    """How often number `index` occurs in `expr`."""
    if isinstance(expr, tuple):
        return count_leaf(expr[1], index) + count_leaf(expr[2], index)
    return int(isinstance(expr, int) and expr == index)


def solve_for(expr: Expr, index: int, numbers: Sequence[int], result: int, steps: list[str]) -> int:
    """Number `index`, computed from `result` and the other numbers; each inverse operation is appended to `steps`.

    `index` must occur exactly once in `expr`.
    """
    if not isinstance(expr, tuple):
        return result
    op, left_expr, right_expr = expr
    unknown_left = count_leaf(expr[1], index) == 1
    known = evaluate(right_expr if unknown_left else left_expr, numbers, steps)
    if op == "+":
        inverse, a, b = "-", result, known
    elif op == "*":
        inverse, a, b = "/", result, known
    elif unknown_left:  # x - known = result, x / known = result
        inverse, a, b = {"-": "+", "/": "*"}[op], result, known
    else:  # known - x = result, known / x = result
        inverse, a, b = op, known, result
    value = apply(inverse, a, b)
    steps.append(f"{a}{inverse}{b}={value}")
    return solve_for(left_expr if unknown_left else right_expr, index, numbers, value, steps)
