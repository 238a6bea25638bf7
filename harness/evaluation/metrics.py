"""Scores of a list of predictions: a record's `test` and `valid`."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import NotRequired, TypedDict

from harness.evaluation.predictions import Prediction
from harness.inputs.rows import Question, questions_hash
from harness.scoring import SCORER_VERSION, Score, score

LARGEST_NATS = 65504.0  # of fp16


class Stratum(TypedDict):
    accuracy: float
    correct: int
    total: int


class ResponseLoss(TypedDict):
    """Teacher-forced loss of the references, as harness/evaluation/response_loss.py measures it.

    response_loss: nats per label token over all responses, as training loss and perplexity are given. response_tokens:
    label tokens. response_nats: the sum of each question in file order, as base64 of little-endian fp16 (2.7 characters
    a question, each at most 0.05 % off); 65,504 for more than that, NaN where question and reference make no training
    text, or one longer than the model's positions. Records before version 3 have none of these.
    """

    response_loss: NotRequired[float]
    response_tokens: NotRequired[int]
    response_nats: NotRequired[str]


class Scores(ResponseLoss):
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


def to_nats(values: Sequence[float]) -> str:
    """Values from 0 to LARGEST_NATS, or NaN, as base64 of little-endian fp16."""
    return base64.b64encode(struct.pack(f"<{len(values)}e", *values)).decode()


def from_nats(text: str) -> list[float]:
    """Inverse of `to_nats`, as rounded. Raises ValueError for what is not base64 of fp16 values."""
    data = base64.b64decode(text, validate=True)
    if len(data) % 2:
        raise ValueError("not a whole number of fp16 values")
    return list(struct.unpack(f"<{len(data) // 2}e", data))
