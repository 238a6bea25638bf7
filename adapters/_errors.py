"""One form for every message a user reads: `<where>: <what>, got <value!r>; expected <set or range>. <what to do>`."""

from __future__ import annotations

NOTHING = object()


class AdapterError(ValueError):
    """Bad input to the library; the model is as it was before the call."""


def problem(where: str, what: str, *, got: object = NOTHING, expected: str = "", remedy: str = "") -> str:
    """One line in the project's form; parts that do not apply are left out."""
    line = f"{where}: {what}"
    if got is not NOTHING:
        line += f", got {got!r}"
    if expected:
        line += f"; expected {expected}"
    return f"{line}. {remedy}".strip() if remedy else f"{line}."
