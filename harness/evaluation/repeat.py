"""The noise floor: the test questions once more in another batch order, with other neighbours and other padding.

In exact arithmetic nothing would change. In bf16 a row's sums depend on its batch, and a different token early in an
answer can make it right or wrong: differences between runs below this one mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.config.job import Job
from harness.evaluation.predict import predict
from harness.evaluation.predictions import Prediction
from harness.inputs.rows import Question
from harness.scoring import score


def split_of(turn: int) -> str:
    """The name of the turn-th answers (from 2) in predictions.jsonl."""
    return f"test.{turn}"


def repeat_test(
    model: Any,
    tokenizer: Any,
    questions: list[Question],
    job: Job,
    first: list[Prediction],
    file: Path,
    tick: Callable[[str], None],
    *,
    turns: int,
) -> dict[str, Any]:
    """A record's `repeat`, from answering everything turns − 1 more times; texts go to `file`, resumable by chunk."""
    others = []
    for turn in range(2, turns + 1):
        split = split_of(turn)
        others.append(
            predict(model, tokenizer, questions, job, split, file, tick, shuffled=turn)  # turn as the seed
        )
    return compared(first, others, questions)


def compared(first: list[Prediction], others: list[list[Prediction]], questions: list[Question]) -> dict[str, Any]:
    """What each repetition changed, and the largest difference of accuracy between any two turns."""
    right = _right(first, questions)
    turns = []
    for answers in others:
        now = _right(answers, questions)
        turns.append(
            {
                "accuracy": sum(now) / len(now),
                "correct": sum(now),
                "total": len(now),
                "changed": sum(a != b for a, b in zip(right, now, strict=True)),
                "texts_differ": sum(a.text != b.text for a, b in zip(first, answers, strict=True)),
            }
        )
    all_correct = [sum(right), *(t["correct"] for t in turns)]
    return {"turns": turns, "largest_difference": (max(all_correct) - min(all_correct)) / len(questions)}


def _right(answers: list[Prediction], questions: list[Question]) -> list[bool]:
    return [score(p.text, q.reference, finished=p.finished).correct for p, q in zip(answers, questions, strict=True)]
