"""Scores of a list of predictions: a record's `test` and `valid`."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from harness.evaluation.predictions import Prediction
from harness.inputs.rows import Question, questions_hash
from harness.scoring import SCORER_VERSION, Score, score


class Stratum(TypedDict):
    accuracy: float
    correct: int
    total: int


class Scores(TypedDict):
    """accuracy: by marker. correct_bits: question i in file order is bit i from the left; hexadecimal, padded.

    strata: by name, where questions have one.
    """

    accuracy: float
    correct: int
    total: int
    flexible_accuracy: float
    truncated: int
    no_answer: int
    questions_hash: str
    correct_bits: str
    scorer_version: int
    strata: NotRequired[dict[str, Stratum]]


def metrics(predictions: list[Prediction], questions: list[Question]) -> Scores:
    """Scores of one prediction per question, in the questions' order."""
    scores: list[Score] = [
        score(p.text, q.reference, finished=p.finished) for p, q in zip(predictions, questions, strict=True)
    ]
    total, correct = len(scores), sum(s.correct for s in scores)
    result: Scores = {
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
    if strata := _strata([s.correct for s in scores], questions):
        result["strata"] = strata
    return result


def _strata(right: list[bool], questions: list[Question]) -> dict[str, Stratum]:
    out: dict[str, Stratum] = {}
    for name in sorted({q.stratum for q in questions} - {""}):
        own = [r for r, q in zip(right, questions, strict=True) if q.stratum == name]
        out[name] = {"accuracy": sum(own) / len(own), "correct": sum(own), "total": len(own)}
    return out


def to_bits(correct: list[bool]) -> str:
    bits = "".join("1" if c else "0" for c in correct)
    bits += "0" * (-len(bits) % 4)
    return "".join(f"{int(bits[k : k + 4], 2):x}" for k in range(0, len(bits), 4))


def from_bits(digits: str, total: int) -> list[bool]:
    """Inverse of `to_bits`."""
    return [b == "1" for b in "".join(f"{int(d, 16):04b}" for d in digits)][:total]
