"""GSM8K-Platinum (Vendrow et al. 2025, arXiv 2502.03461): 1,209 of GSM8K's 1,319 test questions, errors corrected.

A second accuracy of the same answers: nothing is generated again, and nothing of a run's science changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.config.job import WHERE, Source
from harness.data.held_out import normalised
from harness.evaluation.metrics import metrics
from harness.evaluation.predictions import Prediction
from harness.inputs.fingerprints import source_identity
from harness.inputs.rows import Question, read_questions


def read(source: Source) -> list[Question]:
    """Platinum's questions in its file's order. Raises BadInput for a file that is missing, empty or broken."""
    return read_questions(source, WHERE)


def scored(
    answers: list[Prediction], asked: list[Question], corrected: list[Question], source: Source, cache_dir: Path
) -> dict[str, Any]:
    """A record's `platinum`: metrics of the test answers to the corrected questions, in Platinum's order.

    answers: one per question of `asked`, in its order. Questions are matched by normalised text; those of Platinum that
    were not asked (all beyond eval.limit) are left out and counted as not_found. With none found there are no metrics.
    """
    place = {normalised(q.text): n for n, q in reversed(list(enumerate(asked)))}
    found = [(place[key], q) for q in corrected if (key := normalised(q.text)) in place]
    made: dict[str, Any] = {"source": source_identity(source, cache_dir, WHERE)}
    made["not_found"] = len(corrected) - len(found)
    if found:
        made |= metrics([answers[n] for n, _ in found], [q for _, q in found])
    return made
