"""GSM8K-Platinum (Vendrow et al. 2025, arXiv 2502.03461): 1,209 of GSM8K's 1,319 test questions, errors corrected.

A second accuracy of the same answers: nothing is generated again, and nothing of a run's science changes.
"""

from __future__ import annotations

from typing import Any

from harness.config.schema import Source
from harness.data.held_out import normalised
from harness.evaluation.metrics import metrics
from harness.evaluation.predictions import Prediction
from harness.inputs.fingerprints import PLATINUM
from harness.inputs.rows import Question, read_questions


def read_platinum(source: Source) -> list[Question]:
    """Platinum's questions in its file's order. Raises BadInput for a file that is missing, empty or broken."""
    return read_questions(source, PLATINUM)


def score_platinum(
    answers: list[Prediction], questions: list[Question], corrected: list[Question], fingerprint: str
) -> dict[str, Any]:
    """A record's `platinum`: metrics of the test answers to the corrected questions, in Platinum's order.

    answers: one per question, in order. Questions are matched by normalised text; those of Platinum that were not
    answered (all beyond eval.limit) are left out and counted as not_found; without any match there are no scores.
    """
    place = {normalised(q.text): n for n, q in reversed(list(enumerate(questions)))}
    matched = [(place[key], q) for q in corrected if (key := normalised(q.text)) in place]
    result: dict[str, Any] = {"source": fingerprint, "not_found": len(corrected) - len(matched)}
    return result | metrics([answers[n] for n, _ in matched], [q for _, q in matched]) if matched else result
