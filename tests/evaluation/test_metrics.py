"""Figures of one split from its answers, and which questions were right as bits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.evaluation.metrics import LARGEST_NATS, from_bits, from_nats, metrics, to_bits, to_nats
from harness.evaluation.predictions import Prediction
from harness.inputs.rows import Question


def test_metrics_count_what_the_texts_say() -> None:
    asked = [Question(str(n), "#### 7") for n in range(5)]
    texts = [("#### 7", False), ("so 7", True), ("so 7", False), ("none", True), ("#### 8", True)]
    found = metrics([Prediction("test", n, t, f) for n, (t, f) in enumerate(texts)], asked)
    assert (found["correct"], found["total"], found["accuracy"]) == (1, 5, 0.2)
    assert found["flexible_accuracy"] == 0.4
    assert (found["truncated"], found["no_answer"]) == (1, 1)
    assert found["correct_bits"] == "80"
    changed = metrics([Prediction("test", 0, "#### 7", True)], [Question("0", "#### 8")])
    assert changed["questions_hash"] != metrics([Prediction("test", 0, "", True)], asked[:1])["questions_hash"]


def test_strata_are_scored_by_themselves() -> None:
    """Each is what scoring its questions alone gives; questions in none count in the whole only."""
    names = ["new", "known", "", "new", "known", "known"]
    asked = [Question(str(n), "#### 7", name) for n, name in enumerate(names)]
    answers = [Prediction("test", n, f"#### {7 if n in (0, 2, 4, 5) else 8}", True) for n in range(6)]
    found = metrics(answers, asked)
    assert list(found["strata"]) == ["known", "new"]
    for name, own in found["strata"].items():
        places = [n for n, stratum in enumerate(names) if stratum == name]
        alone = metrics([answers[n] for n in places], [asked[n] for n in places])
        assert own == {key: alone[key] for key in ("accuracy", "correct", "total")}
    assert (found["correct"], found["strata"]["known"]["correct"], found["strata"]["new"]["total"]) == (4, 2, 2)
    assert "strata" not in metrics(answers[2:3], asked[2:3])


@given(st.lists(st.booleans(), max_size=200))
def test_bits_round_trip(correct: list[bool]) -> None:
    """Question 0 is the most significant bit of the first digit; the last digit is filled with zeros."""
    digits = to_bits(correct)
    assert from_bits(digits, len(correct)) == correct
    assert len(digits) == -(-len(correct) // 4)
    value = int(digits or "0", 16)
    assert [bool(value >> (4 * len(digits) - 1 - k) & 1) for k in range(len(correct))] == correct
    assert value.bit_count() == sum(correct)


@given(st.lists(st.floats(0.01, LARGEST_NATS) | st.just(math.nan), max_size=200))
def test_nats_round_trip(values: list[float]) -> None:
    """Each to half a unit of fp16's last place, which is 2⁻¹¹ of it; 1,500 questions take 4,000 characters."""
    text = to_nats(values)
    assert from_nats(text) == pytest.approx(values, rel=2**-11, nan_ok=True)
    assert len(text) == 4 * -(-2 * len(values) // 3)
