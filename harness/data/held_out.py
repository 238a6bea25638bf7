"""Held-out questions: which are kept for validation, and how training rows that come from them are found."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

from harness.data.token_cache import Counts
from harness.errors import refuse
from harness.inputs.rows import Question, Row


def hold_out(questions: list[Question], size: int) -> tuple[list[Question], set[str]]:
    """`size` questions for validation, chosen by the hash of their text: the same ones for every seed and machine."""
    if size >= len(questions):
        raise refuse(
            "benchmark.valid_size", "larger than the questions there are", got=size, expected=f"< {len(questions)}"
        )
    chosen = sorted(questions, key=lambda q: hashlib.sha256(normalised(q.text).encode()).digest())[:size]
    return chosen, {normalised(q.text) for q in chosen}


def normalised(question: str) -> str:
    """Case, white space and punctuation folded: augmented copies differ in these."""
    return re.sub(r"[^\w]+", " ", question.casefold()).strip()


def remove_held_out(rows: Iterable[tuple[int, Row]], held_out: set[str], counts: Counts) -> Iterator[tuple[int, Row]]:
    """Numbered training rows that are no held-out question and, by `original_question`, come from none; counts them."""
    for number, row in rows:
        original = normalised(row.get("original_question", ""))
        counts["train_rows"] += 1
        counts["without_original"] += original == ""
        if original in held_out or normalised(row["query"]) in held_out:
            counts["removed_for_validation"] += 1
            counts["removed_identical"] += original == ""
        else:
            yield number, row
