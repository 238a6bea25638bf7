"""Scores that contradict themselves: sums, bits and shares of a record's `test`, `valid` and `platinum`."""

from __future__ import annotations

from harness.evaluation.metrics import Scores, Stratum, from_bits
from harness.inputs.rows import MOST_STRATA, STRATUM


def check_scores(scores: Scores, split: str) -> None:
    """Raises ValueError, naming `split`, where the numbers do not agree."""
    right = from_bits(scores["correct_bits"], scores["total"])
    if max(scores["truncated"], scores["no_answer"]) > scores["total"]:
        raise ValueError(f"{split}: truncated or no_answer is above total, {scores['total']}")
    if scores["total"] < 1 or len(right) != scores["total"] or sum(right) != scores["correct"]:
        raise ValueError(f"{split}: correct_bits are not {scores['correct']} of {scores['total']}")
    _check_accuracy(scores, split)
    if "strata" in scores:
        _check_strata(scores["strata"], scores, split)


def _check_accuracy(scores: Scores | Stratum, where: str) -> None:
    if abs(scores["accuracy"] - scores["correct"] / scores["total"]) > 1e-9:
        raise ValueError(f"{where}: accuracy {scores['accuracy']} is not {scores['correct']} of {scores['total']}")


def _check_strata(strata: dict[str, Stratum], scores: Scores, split: str) -> None:
    """Every question is in one stratum or in none."""
    if len(strata) > MOST_STRATA:
        raise ValueError(f"{split}.strata: {len(strata)} of them; expected at most {MOST_STRATA}")
    for name, own in strata.items():
        if not STRATUM.fullmatch(name) or not max(1, own["correct"]) <= own["total"]:
            raise ValueError(f"{split}.strata: {own['correct']} of {own['total']} in {name[:80]!r}")
        _check_accuracy(own, f"{split}.strata.{name}")
    rest, right = (scores[key] - sum(own[key] for own in strata.values()) for key in ("total", "correct"))
    if not 0 <= right <= rest:
        raise ValueError(f"{split}.strata: their sums leave {right} of {rest} for questions in none")
