"""The scorer against tables of facts, GSM8K's own references, and invariants (harness/scoring.py).

Every case names the rule of the module's docstring that decides it; the adversarial ones are in scoring_cases.py.
"""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import scoring
from harness.scoring import STOP, Score, answer_complete, cut, reference_answer, score
from tests.scoring_cases import CASES as ADVERSARIAL
from tests.scoring_cases import HEADINGS, LATER, Case

GSM8K_TEST = Path(__file__).resolve().parents[2] / "shared" / "data" / "gsm8k" / "test.jsonl"


CASES = [
    # Markers, and which of them wins.
    Case(1, "gsm8k marker", "16-3-4=9\n#### 18", "#### 18", "marker"),
    Case(1, "gsm8k marker without a space", "####18", "#### 18", "marker"),
    Case(1, "metamath ending", "so\n#### 18\nThe answer is: 18", "#### 18", "marker"),
    Case(1, "the answer is with a colon", "The answer is: 18", "#### 18", "marker"),
    Case(1, "the answer is without a colon", "So the answer is 18.", "#### 18", "marker"),
    Case(1, "the final answer is", "The final answer is: 18", "#### 18", "marker"),
    Case(1, "any case", "THE FINAL ANSWER IS 18", "18", "marker"),
    Case(1, "boxed", r"so $\boxed{18}$ in all", "18", "marker"),
    Case(1, "boxed inside a phrase", r"The final answer is: $\boxed{18}$.", "18", "marker"),
    Case(5, "text after a box is outside it", r"The answer is $\boxed{18}$, 3 more than 15", "18", "marker"),
    Case(2, "earliest wins: right", "#### 18\nThe answer is: 17", "18", "marker"),
    Case(2, "earliest wins: wrong", "#### 17\nThe answer is: 18", "18", "wrong", "17"),
    Case(2, "earliest wins: phrase first", "The answer is: 18\n#### 17", "18", "marker"),
    Case(2, "earliest wins: box first", "\\boxed{18}\nThe answer is: 17", "18", "marker"),
    Case(2, "earliest wins: on one line", "The answer is: 18, no, the answer is: 17", "18", "marker"),
    Case(2, "an ambiguous marker is not repaired by a later one", "#### 3, 18\nThe answer is: 18", "18", "ambiguous"),
    Case(3, "marker without a number is passed over", "#### Solution\n2 * 9\nThe answer is: 18", "18", "marker"),
    Case(2, "two markers on one line", "#### The answer is: 18", "18", "marker"),
    Case(3, "a heading with a step label", "#### Step 1: eggs\n3 left\n#### Step 2\nThe answer is: 18", "18", "marker"),
    Case(5, "empty box does not reach for the next line", "\\boxed{}\n18", "18", "flexible"),
    Case(2, "empty box is passed over", "\\boxed{}\n#### 18", "18", "marker"),
    Case(4, "number on the next line", "The answer is:\n\n18", "18", "marker"),
    Case(4, "display maths on the next lines", "The final answer is:\n\\[\n\\boxed{18}\n\\]", "18", "marker"),
    Case(
        4, "prose on the next line is not the answer", "The answer is:\nJanet has 3 ducks, sells 18", "18", "flexible"
    ),
    Case(11, "words between marker and number", "The answer is: Janet makes $18 every day", "18", "marker"),
    Case(1, "three hashes are no marker", "### 18", "18", "flexible"),
    Case(1, "Answer: is no marker", "**Answer: $18**", "18", "flexible"),
    Case(1, "isn't is no marker", "The answer isn't 17 but 18", "18", "flexible"),
    # Thousands, decimals, fractions.
    Case(6, "thousands both sides", "The answer is: 1,234", "#### 1,234", "marker"),
    Case(6, "thousands in the reference only", "The answer is: 1234", "#### 1,234", "marker"),
    Case(6, "thousands in the text only", "#### 70,000", "#### 70000", "marker"),
    Case(6, "millions", "#### $1,234,567.00", "1234567", "marker"),
    Case(6, "underscore groups", "#### 1_000", "1000", "marker"),
    Case(6, "latex thousands", r"\boxed{1{,}000}", "1000", "marker"),
    Case(6, "latex thin space thousands", r"\boxed{1\,000\,000}", "1000000", "marker"),
    Case(6, "narrow no-break space thousands", "#### 1\u202f000", "1000", "marker"),
    Case(8, "malformed group", "#### 1,23", "123", "ambiguous"),
    Case(8, "malformed long group", "#### 1,2345", "12345", "ambiguous"),
    Case(8, "group after four digits", "#### 1234,567", "1234567", "ambiguous"),
    Case(6, "trailing zeros", "#### 18.00", "18", "marker"),
    Case(6, "no rounding up", "#### 17.9999999999999999999", "18", "wrong", "17.9999999999999999999"),
    Case(6, "18.5 is not 18", "The answer is: 18.5", "18", "wrong", "18.5"),
    Case(6, "8.5 is not 9", "The answer is: 8.5", "9", "wrong", "8.5"),
    Case(6, "leading point", "The answer is: .5", "0.5", "marker"),
    Case(6, "leading point with currency", "The answer is: $.50", "1/2", "marker"),
    Case(6, "leading zeros", "#### 018", "18", "marker"),
    Case(6, "fraction", "The answer is: 1/2", "0.5", "marker"),
    Case(6, "fraction that is whole", "The answer is: 36/2", "18", "marker"),
    Case(6, "division sign", "The answer is: 36 ÷ 2", "18", "marker"),
    Case(6, "mixed number", "The answer is: 2 1/2 cups", "2.5", "marker"),
    Case(8, "improper mixed number is two numbers", "The answer is: 18 36/2", "36", "ambiguous"),
    Case(6, "vulgar fraction", "The answer is: 2½", "2.5", "marker"),
    Case(6, "latex fraction", r"\boxed{\frac{1}{2}}", "0.5", "marker"),
    Case(6, "latex short fraction", r"\boxed{\frac12}", "0.5", "marker"),
    Case(6, "latex mixed number", r"The answer is: $-2\dfrac{1}{2}$", "-2.5", "marker"),
    Case(8, "zero denominator", r"The answer is: \frac{1}{0}", "1", "ambiguous"),
    Case(8, "zero denominator, flexible", "1/0", "1", "no answer"),
    Case(8, "a date is no fraction", "#### 5/6/2020", "5/6", "ambiguous"),
    # Currency, percent, units, LaTeX, markdown.
    Case(10, "dollar", "The answer is: $18", "18", "marker"),
    Case(10, "dollar behind", "The answer is: 18$", "18", "marker"),
    Case(10, "us dollar", "The answer is: US$18", "18", "marker"),
    Case(10, "euro", "The answer is: €18", "18", "marker"),
    Case(10, "euro behind", "The answer is: 18 €", "18", "marker"),
    Case(10, "pound", "The answer is: £ 18", "18", "marker"),
    Case(10, "latex dollar", r"The answer is: \$18", "18", "marker"),
    Case(10, "latex dollar and text", r"\boxed{\$1{,}000 \text{ dollars}}", "1000", "marker"),
    Case(10, "percent is not divided", "The answer is: 18%", "18", "marker"),
    Case(10, "percent is not a hundredth", "The answer is: 18%", "0.18", "wrong", "18"),
    Case(10, "latex percent", r"\boxed{18\%}", "18", "marker"),
    Case(8, "no scaling by words", "The answer is: 2 million", "2000000", "ambiguous"),
    Case(10, "unit", "#### 18 eggs", "18", "marker"),
    Case(10, "unit glued", "#### 18kg", "18", "marker"),
    Case(7, "unit with a power", r"The answer is: 18 \text{cm}^2", "18", "marker"),
    Case(7, "unit with a superscript", "The answer is: 18 m²", "18", "marker"),
    Case(10, "unit per unit", "The answer is: 18 miles/hour", "18", "marker"),
    Case(10, "inline maths", r"The answer is: \(18\).", "18", "marker"),
    Case(10, "bold number", "The answer is: **18**", "18", "marker"),
    Case(10, "bold phrase", "**The final answer is:** 18", "18", "marker"),
    Case(10, "bold inside the phrase", "The **final answer** is **$18.**", "18", "marker"),
    Case(10, "italic, quoted, code", 'The answer is: *"`18`"*', "18", "marker"),
    Case(10, "italic phrase", "_The answer is: 18_", "18", "marker"),
    Case(10, "nested box", r"\boxed{\text{\textbf{18} eggs}}", "18", "marker"),
    Case(10, "calculator annotation", "The answer is: $<<9*2=18>>18", "18", "marker"),
    Case(7, "a name is no number", "The answer is: x2 = 18", "18", "marker"),
    # Minus signs and arithmetic.
    Case(9, "negative", "#### -10", "#### -10", "marker"),
    Case(9, "minus dropped", "#### 10", "#### -10", "wrong", "10"),
    Case(9, "U+2212 minus", "The answer is: \u22123", "#### -3", "marker"),
    Case(9, "U+2013 minus", "The answer is: \u20133", "#### -3", "marker"),
    Case(9, "minus before currency", "The answer is: -$3", "-3", "marker"),
    Case(9, "minus after currency", r"The answer is: \$-3", "-3", "marker"),
    Case(9, "a minus with a space is a sign", "The answer is - 18", "18", "wrong", "-18"),
    Case(9, "an em dash is punctuation", "The answer is \u2014 18", "18", "marker"),
    Case(9, "negative fraction", r"\boxed{-\frac{1}{2}}", "-0.5", "marker"),
    Case(15, "subtraction", "The answer is: 10-3 = 7", "7", "marker"),
    Case(15, "subtraction with units", "The answer is: 20 eggs - 2 eggs = 18 eggs", "18", "marker"),
    Case(15, "chain", "The answer is: 2 * 9 = 3 * 6 = $18.", "18", "marker"),
    Case(15, "chain with latex and brackets", r"The answer is: 2 \times (10 - 1) = \boxed{18}", "18", "marker"),
    Case(15, "chain with x", "#### 3x6 = 18", "18", "marker"),
    Case(15, "percent of", "The answer is: 20% of 90 = 18", "18", "marker"),
    Case(15, "sides of an equation", "The answer is: Total = 15 + 3 = 18", "18", "marker"),
    Case(15, "subtraction without a result", "The answer is: 10-3", "10", "ambiguous"),
    Case(15, "product without a result", r"The answer is: 2 \cdot 9", "18", "ambiguous"),
    Case(15, "expression on the right", "The answer is: 18 = 2 * 9", "18", "ambiguous"),
    Case(8, "power", "The answer is: 2**3", "23", "ambiguous"),
    Case(8, "superscript power", "The answer is: 10²", "102", "ambiguous"),
    Case(8, "exponent", "The answer is: 1e3", "1", "ambiguous"),
    Case(8, "time", "The answer is: 7:30 pm", "7", "ambiguous"),
    Case(8, "version", "#### 18.5.2", "18.5", "ambiguous"),
    Case(17, "flexible subtraction is not a negative", "she has 10-3", "3", "flexible"),
    # Several numbers.
    Case(12, "list with a comma", "The answer is: 3, 18", "18", "ambiguous"),
    Case(12, "list with a comma, first right", "The answer is: 18, 3", "18", "ambiguous"),
    Case(8, "list without spaces", "The answer is: 1,2,3", "123", "ambiguous"),
    Case(12, "list with and", "The answer is: 3 and 18", "3", "ambiguous"),
    Case(12, "list with or", r"The answer is 18 or \boxed{19}", "18", "ambiguous"),
    Case(12, "list with blanks", "#### 18 19", "18", "ambiguous"),
    Case(12, "range", "The answer is: 3 to 5", "3", "ambiguous"),
    Case(12, "range with a dash", "The answer is: 3\u20135", "3", "ambiguous"),
    Case(12, "list with currency", "The answer is: $3, $18", "3", "ambiguous"),
    Case(12, "list in maths", "The answer is: $3$, $18$", "3", "ambiguous"),
    Case(12, "list with units", "The answer is: 5 apples and 3 pears", "5", "ambiguous"),
    Case(12, "list in a box", r"\boxed{3, 18}", "18", "ambiguous"),
    Case(13, "prose with a number", "The answer is: 18 dollars per 2 weeks", "18", "marker"),
    Case(14, "relative clause", "The answer is: 18, which is 2 * 9", "18", "marker"),
    Case(14, "bracket", "The answer is: 18 (3 x 6)", "18", "marker"),
    Case(14, "reason with arithmetic", "The answer is: 18 because 20 - 2 = 18", "18", "marker"),
    Case(13, "part of a whole", "The answer is: 18 of 20 students", "18", "marker"),
    Case(7, "hyphenated name", "The answer is: 18 COVID-19 tests", "18", "marker"),
    # What follows the answer.
    Case(10, "full stop", "The answer is: 18.", "18", "marker"),
    Case(10, "full stop after decimals", "The answer is: 18.00.", "18", "marker"),
    Case(14, "next sentence", "The answer is: 18. She had 3 more.", "18", "marker"),
    Case(2, "glued letters", "The answer is: 18The answer is: 19", "18", "marker"),
    Case(2, "next line", "The answer is: 18\n19 is wrong", "18", "marker"),
    Case(1, "run-on question", "The answer is: 18\n\nQuestion: Tom has 7\n#### 7", "18", "marker"),
    Case(1, "run-on question, no marker", "she makes 18\nQuestion: Tom has 7. The answer is: 7", "18", "flexible"),
    Case(1, "run-on question counts as finished", "makes 18\nQuestion: Tom has 7", "18", "flexible", finished=False),
    Case(1, "Question inside a line stays", "Question: 7\nThe answer is: 18", "18", "marker"),
    Case(1, "carriage return", "The answer is: 18\r\n\r\nQuestion: 7", "18", "marker"),
    # Unicode.
    Case(10, "no-break spaces", "The\u00a0answer\u00a0is:\u00a018\u00a0eggs", "18", "marker"),
    Case(6, "zero-width space", "####\u200b\u200b18", "18", "marker"),
    Case(6, "full-width digits", "The answer is：１８", "18", "marker"),
    Case(10, "chinese around the number", "The answer is: 共18個", "18", "marker"),
    # No marker, truncated, nothing.
    Case(17, "flexible only", "She makes 9 * 2 = $18 every day.", "18", "flexible"),
    Case(17, "flexible thousands", "so 70,000.", "70000", "flexible"),
    Case(17, "flexible takes the last", "18 in all, 3 per day", "18", "flexible wrong", "3"),
    Case(17, "marker without any number", "17 or 18. The answer is: unknown", "18", "flexible"),
    Case(18, "truncated", "She makes 9 * 2 = 18", "18", "truncated", finished=False),
    Case(18, "truncated behind a marker", "18 eggs. The answer is:", "18", "truncated", finished=False),
    Case(1, "marker at the limit", "The answer is: 18", "18", "marker", finished=False),
    Case(12, "ambiguous at the limit", "The answer is: 3, 18", "18", "ambiguous", finished=False),
    Case(17, "empty", "", "18", "no answer"),
    Case(18, "empty at the limit", "", "18", "truncated", finished=False),
    Case(7, "words only", "The answer is: eighteen", "18", "no answer"),
    Case(17, "lone comma is not zero", "The answer is: ,", "0", "no answer"),
    Case(17, "lone minus, point, dollar", "#### - . $", "0", "no answer"),
    Case(8, "absurdly long number", "#### " + "9" * 5000, "18", "ambiguous"),
    Case(8, "absurdly long number, flexible", "9" * 5000, "18", "no answer"),
    # References.
    Case(1, "reference is a worked solution", "#### 18", "He buys 3 for $4,000.\n#### 18", "marker"),
    Case(1, "reference text before the hashes is ignored", "#### 3", "He buys 3\n#### 18", "wrong", "3"),
    Case(1, "gsm8k comma reference", "#### 2125", "... = $<<1875+250=2125>>2,125.\n#### 2,125", "marker"),
    Case(1, "gsm8k large comma reference", "The answer is: $114,200", "so $114,200\n#### 114,200", "marker"),
    Case(1, "gsm8k negative reference", "The answer is: -$10", "He lost 10\n#### -10", "marker"),
    Case(1, "bare reference", "#### 18", " 18.0\n", "marker"),
    Case(1, "currency reference", "#### 18", "#### $18.", "marker"),
    Case(1, "metamath reference", "#### 18", "so\n#### 18\nThe answer is: 18", "marker"),
]


def describe(result: Score) -> str:
    """The one verdict of the table that a Score amounts to; asserts that its fields agree with each other."""
    verdicts = {
        "marker": result.correct,
        "flexible": result.method == "flexible" and result.flexible_correct,
        "flexible wrong": result.method == "flexible" and not result.flexible_correct,
        "wrong": result.method == "marker" and result.answer is not None and not result.correct,
        "ambiguous": result.ambiguous,
        "truncated": result.truncated,
        "no answer": result.no_answer,
    }
    true = [name for name, holds in verdicts.items() if holds]
    assert len(true) == 1, result
    assert not result.correct or (result.flexible_correct and result.method == "marker")
    assert (result.answer is None) == (true[0] in ("ambiguous", "truncated", "no answer"))
    assert (result.method == "none") == (result.truncated or result.no_answer)
    return true[0]


@pytest.mark.parametrize("case", [*CASES, *ADVERSARIAL], ids=lambda case: f"{case.rule}-{case.name}")
def test_table(case: Case) -> None:
    result = score(case.continuation, case.reference, finished=case.finished)
    assert describe(result) == case.verdict, result
    if case.answer is not None and case.verdict != "ambiguous":
        assert result.answer == Fraction(case.answer)


def test_table_names_are_unique() -> None:
    cases = {(case.name, case.continuation, case.reference, case.finished) for case in [*CASES, *ADVERSARIAL]}
    assert len(cases) == len(CASES) + len(ADVERSARIAL)
    assert len({case.name for case in CASES}) == len(CASES) >= 90
    assert len(ADVERSARIAL) >= 700


def test_every_rule_has_cases() -> None:
    rules = {int(number) for number in re.findall(r"(?m)^ ?([0-9]+)\. ", scoring.__doc__ or "")}
    assert rules == {case.rule for case in [*CASES, *ADVERSARIAL]} == set(range(1, len(rules) + 1))


BAD_REFERENCES = [
    "",
    "####",
    "18 eggs\n####",
    "#### eighteen",
    "She has 18",
    "#### 3, 18",
    "#### 1/0",
    "#### ,",
    "3 18",
]


@pytest.mark.parametrize("reference", [*BAD_REFERENCES, "18 or so", "#### " + "9" * 5000], ids=lambda r: repr(r[:20]))
def test_bad_reference_raises(reference: str) -> None:
    with pytest.raises(
        ValueError, match=r"^reference: no answer in it, got .*; expected a number, or a worked solution"
    ):
        score("#### 18", reference)


def test_reference_shows_its_end() -> None:
    with pytest.raises(ValueError, match="and the end'; expected") as caught:
        reference_answer("long " * 1000 + "and the end")
    assert len(str(caught.value)) < 300


def test_cut() -> None:
    assert cut("18\nQuestion: 7\nQuestion: 8") == "18"
    assert cut("18<|endoftext|>\nQuestion: 7", eos=("</s>", "<|endoftext|>")) == "18"
    assert cut("18\nQuestion: 7<|endoftext|>", eos=("<|endoftext|>",)) == "18"
    assert cut("18", eos=("", "<|endoftext|>")) == "18"
    result = score("so 18<|endoftext|>19", "18", finished=False, eos=["<|endoftext|>"])
    assert describe(result) == "flexible"


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("The answer is: 18\n", True),
        ("The answer is: 18", False),  # 18 may become 180
        ("The answer is: 18.", False),  # ... or 18.5
        ("The answer is: 3, 18\n", True),  # ambiguous for good
        ("The answer is:\n", False),
        ("The answer is:\n18", False),
        ("The answer is:\n18\n", True),
        ("#### Solution\nshe has 18\n", False),
        ("she has 18\n", False),
        ("she has 18\nQuestion:", True),
        ("she has 18<eos>", True),
        ("", False),
    ],
)
def test_answer_complete(text: str, complete: bool) -> None:
    assert answer_complete(text, eos=("<eos>",)) is complete


@pytest.mark.parametrize("heading", HEADINGS)
def test_generation_does_not_stop_at_a_heading(heading: str) -> None:
    assert not answer_complete(heading + LATER)
    assert answer_complete(heading + LATER + "\n")


def test_stopping_early_does_not_change_the_score_of_any_case() -> None:
    for case in [*CASES, *ADVERSARIAL]:
        text = case.continuation + "\nShe has 9 left.\nThe answer is: 5"
        whole = score(text, case.reference)
        ends = [n for n, character in enumerate(text, start=1) if character == "\n" and answer_complete(text[:n])]
        for end in ends[:1]:
            assert score(text[:end], case.reference, finished=False) == whole, case


def gsm8k_rows() -> list[tuple[str, str]]:
    if not GSM8K_TEST.exists():
        pytest.skip(f"GSM8K's test set is not at {GSM8K_TEST}; the table holds its comma and negative references")
    with GSM8K_TEST.open(encoding="utf-8") as lines:
        return [(row["question"], row["answer"]) for row in map(json.loads, lines)]


def test_every_gsm8k_reference() -> None:
    """Each gold solution is right as a continuation in every format, wrong with answer + 1, cut off without its end."""
    rows = gsm8k_rows()
    assert len(rows) == 1319
    assert sum("," in answer.rpartition("####")[2] for _, answer in rows) == 14
    assert sum(reference_answer(answer) < 0 for _, answer in rows) == 2
    for question, answer in rows:
        solution, _, last = answer.rpartition("####")
        expected = Fraction(last.replace(",", "").strip())  # independent of the scorer
        assert reference_answer(answer) == expected
        for text in (answer, f" {answer}\nThe answer is: {last.strip()}", f"{solution}The answer is: ${last.strip()}."):
            assert score(text, answer) == Score(True, True, expected, "marker"), text
            assert score(f"{text}{STOP} {question}\n#### {expected + 1}", answer).correct
        wrong = score(f"{solution}#### {expected.numerator + 1:,}", answer)
        assert wrong == Score(False, False, expected + 1, "marker"), answer
        assert score(solution, answer, finished=False).truncated


# Ways to write an integer; every one must be read as that integer after every marker.
# fmt: off
FORMATS = [
    "{}", "{:,}", "{:_}", "{}.00", "{:,}.0", "${}", "${:,}", r"\${:,}", "€{}", "£ {}", "{} €", "{}%", r"{}\%",
    "{} eggs", "{}kg", "**{}**", "**${:,}**.", "{}.", "{:,}, which is it", "${}$", r"\({}\)", r"\text{{{}}}",
    "`{}`", "{}/1", "{} (sic)", r"\frac{{{}}}{{1}}", "2 + 2 = {}", "\u00a0{}\u2009kg", "\u200b{}", "x = {:,}",
]
MARKERS = [
    "#### {}", "####{}", "The answer is: {}", "the final answer is {}", r"so \boxed{{{}}}",
    r"The answer is: $\boxed{{{}}}$",
]
# fmt: on


@given(
    st.one_of(st.integers(-(10**7), 10**7), st.integers()),
    st.sampled_from(FORMATS),
    st.sampled_from(MARKERS),
    st.sampled_from(["-", "\u2212", "\u2013"]),
    st.sampled_from(["", "\n", "\nSo she has 5.", "\n\nQuestion: 7", "\n#### 5"]),
)
@settings(max_examples=1000, deadline=None)
def test_any_format_of_an_integer(number: int, form: str, marker: str, minus: str, after: str) -> None:
    text = marker.format(form.format(number)).replace("-", minus) + after
    assert score(text, f"#### {number:,}") == Score(True, True, Fraction(number), "marker"), text
    assert not score(text, f"#### {number + 1}").correct


# Text that is made of what the scorer looks at, and whatever hypothesis thinks of.
# fmt: off
PIECES = [
    "####", "The answer is", ": ", "The final answer is ", "\\boxed{", "}", "{", "\n", "\n\n", STOP,
    "\nQuestion", "<eos>", "18", "3", "1,234", ".5", "-", "\u2212", "$", "%", ",", ".", " ", " and ", " eggs",
    "=", "+", "/", "*", "**", "x", "^", "\\frac{1}{2}", "\\frac{1}{0}", "\\text{", "½", "²", "<<", ">>",
    "Step 2", "\r", "\u00a0", "\u2028", "e", "(", ")", "_", "minus ", " in 3 days", " because ", ". She ", "# ", "\n- ",
    "\n1. ", "&#49;", "&#10;", "\u0661", "1\ufe0f\u20e3", "</b>", "th", "not ", "\\sqrt{",
]
LOOPS = [
    "1", "1,", "1 ", "1,234", ",234", "1.", "-", "- ", "1-", "#### ", "####\n", "#### 1. a\n", "The answer is: ",
    "the ", "The answer is 1. A ", "\\boxed{", "\\boxed{1} ", "\\boxed{}, ", "{", "1/", "1 1/", "a", "a ", "a-",
    "a^1", " ", "1 a and ", "1 = ", "(", "1 (", "(1) ", "1 of ", "in 1 days ", "1 because ", "\\frac{1}{2}",
    "\\sqrt[", "**", "*", "<<", "<<1", "<a", "<b>", "$", "\\", "\\frac{", "&#1;", "&", "~", "Step ", "step 1.", "1 a",
    "\u2009", "²", "1\u0336", "1\ufe0f\u20e3", "\u0661",
]
# fmt: on
TEXTS = st.one_of(
    st.text(), st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=30).map("".join)
)


@given(TEXTS, st.booleans())
@settings(max_examples=1500, deadline=None)
def test_never_raises_and_is_consistent(text: str, finished: bool) -> None:
    describe(score(text, "18", finished=finished))
    try:
        reference_answer(text)
    except ValueError as error:
        assert str(error).startswith("reference: ")  # noqa: PT017 (texts that do parse are welcome too)


@given(TEXTS, st.booleans(), st.booleans())
@settings(max_examples=3000, deadline=None)
def test_stopping_early_does_not_change_the_score(text: str, finished: bool, finished_early: bool) -> None:
    """Stop at every prefix that claims to be complete, not only at the first: the whole text must agree with each."""
    whole = score(text, "18", finished=finished, eos=["<eos>"])
    for end in range(len(text) + 1):
        if answer_complete(text[:end], eos=["<eos>"]):
            assert score(text[:end], "18", finished=finished_early, eos=["<eos>"]) == whole, text[:end]


@pytest.mark.parametrize("unit", LOOPS)
def test_no_catastrophic_backtracking(unit: str) -> None:
    """100,000 characters, eighty times a generation's length: anything quadratic would take minutes."""
    repeated = unit * (50_000 // len(unit))
    text = f"{repeated}\nThe answer is: 1 {repeated}"
    result = score(text, "18")
    describe(result)
    assert answer_complete(text + "\n") is (result.method == "marker")
