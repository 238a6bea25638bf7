"""Scores that contradict themselves: sums, bits and shares of a record's `test`, `valid` and `platinum`."""

from __future__ import annotations

import math

from harness.evaluation.metrics import ResponseLoss, Scores, Stratum, from_bits, from_nats
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
    if any(key.startswith("response_") for key in scores):
        _check_responses(scores, split)


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


def _check_responses(scores: Scores, split: str) -> None:
    """The loss is the mean of the questions' nats, as far as fp16 holds them."""
    missing = sorted(ResponseLoss.__annotations__.keys() - scores.keys())
    if missing:
        raise ValueError(f"{split}.{missing[0]} is missing")
    tokens, loss = scores["response_tokens"], scores["response_loss"]
    try:
        nats = from_nats(scores["response_nats"])
    except ValueError as error:
        raise ValueError(f"{split}.response_nats: {error}") from None
    known = [value for value in nats if not math.isnan(value)]
    if len(nats) != scores["total"] or not all(0 <= value < math.inf for value in known):
        raise ValueError(f"{split}.response_nats: expected {scores['total']} numbers from 0")
    if bool(known) != bool(tokens) or abs(sum(known) / max(1, tokens) - loss) > 1e-3 * loss + 1e-6:
        raise ValueError(f"{split}: response_loss {loss} is not that of response_nats over {tokens} tokens")
