"""TODO harness.evaluation.metrics"""

from __future__ import annotations

from typing import Any

from harness.evaluation.predictions import Prediction
from harness.inputs.rows import Question, questions_hash
from harness.scoring import SCORER_VERSION, Score, score


def metrics(predictions: list[Prediction], questions: list[Question]) -> dict[str, Any]:
    """Accuracy (by marker), flexible accuracy, counts, and which questions were right as hexadecimal bits.

    correct_bits: question i in file order is bit i from the left; padded with zeros on the right to whole digits.
    """
    scores: list[Score] = [
        score(p.text, q.reference, finished=p.finished) for p, q in zip(predictions, questions, strict=True)
    ]
    total, correct = len(scores), sum(s.correct for s in scores)
    return {
        "accuracy": correct / total,
        "correct": correct,
        "total": total,
        "flexible_accuracy": sum(s.flexible_correct for s in scores) / total,
        "truncated": sum(s.truncated for s in scores),
        "no_answer": sum(s.no_answer for s in scores),
        "questions_hash": questions_hash(questions),
        "correct_bits": to_bits([s.correct for s in scores]),
        "scorer_version": SCORER_VERSION,
    }


def to_bits(correct: list[bool]) -> str:
    bits = "".join("1" if c else "0" for c in correct)
    bits += "0" * (-len(bits) % 4)
    return "".join(f"{int(bits[k : k + 4], 2):x}" for k in range(0, len(bits), 4))


def from_bits(digits: str, total: int) -> list[bool]:
    """Inverse of `to_bits`."""
    return [b == "1" for b in "".join(f"{int(d, 16):04b}" for d in digits)][:total]
