"""Held-out questions: which ones validate, and how training rows that come from them are recognised."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.data.token_cache import Counts
from harness.errors import refuse
from harness.inputs.rows import Question, Row

THOUSANDS = re.compile(r"(?<=\d)(?:,|\{,\})(?=\d{3}(?!\d))")


@dataclass(frozen=True)
class HeldOut:
    """The questions that training must not see, as `normalised` texts. valid_in_test: candidates that were left out."""

    valid: frozenset[str]
    test: frozenset[str]
    valid_in_test: int


def hold_out(questions: list[Question], test: list[Question], size: int) -> tuple[list[Question], HeldOut]:
    """`size` questions for validation, none of them a test question: the same ones for every seed and machine.

    Raises BadInput where there are not enough.
    """
    tested = frozenset(normalised(q.text) for q in test)
    pool = [q for q in questions if normalised(q.text) not in tested]
    overlap = len(questions) - len(pool)
    if overlap and size >= len(pool):
        what = f"{overlap} of its {len(questions)} questions are test questions, which leaves too few for validation"
        remedy = "Give other questions, or lower benchmark.valid_size."
        raise refuse("data.questions", what, got=len(pool), expected=f"> {size}", remedy=remedy)
    if size >= len(pool):
        what = "larger than the number of questions"
        raise refuse("benchmark.valid_size", what, got=size, expected=f"< {len(pool)}")
    chosen = sorted(pool, key=_order)[:size]
    return chosen, HeldOut(frozenset(normalised(q.text) for q in chosen), tested, overlap)


def _order(question: Question) -> bytes:
    """A hash that decides which questions are chosen; a better `normalised` must not choose others."""
    return hashlib.sha256(_words(question.text.casefold()).encode()).digest()


def normalised(question: str) -> str:
    """Case, white space, punctuation, Unicode forms and thousands separators folded: copies differ in these.

    NFKC makes full-width digits and composed accents one; format characters (zero-width space, soft hyphen) go.
    """
    if not question.isascii():
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", question).casefold())
        question = "".join(c for c in folded if unicodedata.category(c) != "Cf")
    return _words(THOUSANDS.sub("", question.casefold()))


def _words(text: str) -> str:
    return re.sub(r"[^\w]+", " ", text).strip()


def remove_held_out(rows: Iterable[tuple[int, Row]], held_out: HeldOut, counts: Counts) -> Iterator[tuple[int, Row]]:
    """Numbered training rows that neither are a held-out question nor, by `original_question`, come from one.

    Counts rows by their fate and, at the end, validation questions without a row (all, if a column is mapped wrongly).
    """
    unmatched = set(held_out.valid)
    for number, row in rows:
        original, query = normalised(row.get("original_question", "")), normalised(row["query"])
        counts["train_rows"] += 1
        counts["without_original"] += original == ""
        unmatched -= {original, query}
        if original in held_out.valid or query in held_out.valid:
            counts["removed_for_validation"] += 1
            counts["removed_identical"] += original == ""
        elif original in held_out.test or query in held_out.test:
            counts["removed_for_test"] += 1
        else:
            yield number, row
    counts["valid_unmatched"] = len(unmatched)
