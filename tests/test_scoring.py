"""The scorer against a table of facts, the 1,319 GSM8K test references, and invariants (harness/scoring.py)."""

from __future__ import annotations

import json
import time
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.scoring import STOP, Score, answer_complete, cut, reference_answer, score

GSM8K_TEST = Path(__file__).resolve().parents[2] / "shared" / "data" / "gsm8k" / "test.jsonl"


class Case(NamedTuple):
    """`verdict`: "marker" (correct), "wrong" (a marker's other number), "ambiguous", "flexible" (only that correct),
    "flexible wrong", "truncated" or "no answer"; `answer`, where given with a number read, must equal it."""

    name: str
    continuation: str
    reference: str
    verdict: str
    answer: str | None = None
    finished: bool = True


CASES = [
    # Markers, and which of them wins.
    Case("gsm8k marker", "16-3-4=9\n#### 18", "#### 18", "marker"),
    Case("gsm8k marker without a space", "####18", "#### 18", "marker"),
    Case("metamath ending", "so\n#### 18\nThe answer is: 18", "#### 18", "marker"),
    Case("the answer is with a colon", "The answer is: 18", "#### 18", "marker"),
    Case("the answer is without a colon", "So the answer is 18.", "#### 18", "marker"),
    Case("the final answer is", "The final answer is: 18", "#### 18", "marker"),
    Case("any case", "THE FINAL ANSWER IS 18", "18", "marker"),
    Case("boxed", r"so $\boxed{18}$ in all", "18", "marker"),
    Case("boxed inside a phrase", r"The final answer is: $\boxed{18}$.", "18", "marker"),
    Case("text after a box is outside it", r"The answer is $\boxed{18}$, 3 more than 15", "18", "marker"),
    Case("earliest wins: right", "#### 18\nThe answer is: 17", "18", "marker"),
    Case("earliest wins: wrong", "#### 17\nThe answer is: 18", "18", "wrong", "17"),
    Case("earliest wins: phrase first", "The answer is: 18\n#### 17", "18", "marker"),
    Case("earliest wins: box first", "\\boxed{18}\nThe answer is: 17", "18", "marker"),
    Case("earliest wins: on one line", "The answer is: 18, no, the answer is: 17", "18", "marker"),
    Case("an ambiguous marker is not repaired by a later one", "#### 3, 18\nThe answer is: 18", "18", "ambiguous"),
    Case("marker without a number is passed over", "#### Solution\n2 * 9\nThe answer is: 18", "18", "marker"),
    Case("two markers on one line", "#### The answer is: 18", "18", "marker"),
    Case("a heading with a step label", "#### Step 1: eggs\n3 left\n#### Step 2\nThe answer is: 18", "18", "marker"),
    Case("empty box does not reach for the next line", "\\boxed{}\n18", "18", "flexible"),
    Case("empty box is passed over", "\\boxed{}\n#### 18", "18", "marker"),
    Case("number on the next line", "The answer is:\n\n18", "18", "marker"),
    Case("display maths on the next lines", "The final answer is:\n\\[\n\\boxed{18}\n\\]", "18", "marker"),
    Case("prose on the next line is not the answer", "The answer is:\nJanet has 3 ducks, sells 18", "18", "flexible"),
    Case("words between marker and number", "The answer is: Janet makes $18 every day", "18", "marker"),
    Case("three hashes are no marker", "### 18", "18", "flexible"),
    Case("Answer: is no marker", "**Answer: $18**", "18", "flexible"),
    Case("isn't is no marker", "The answer isn't 17 but 18", "18", "flexible"),
    # Thousands, decimals, fractions.
    Case("thousands both sides", "The answer is: 1,234", "#### 1,234", "marker"),
    Case("thousands in the reference only", "The answer is: 1234", "#### 1,234", "marker"),
    Case("thousands in the text only", "#### 70,000", "#### 70000", "marker"),
    Case("millions", "#### $1,234,567.00", "1234567", "marker"),
    Case("underscore groups", "#### 1_000", "1000", "marker"),
    Case("latex thousands", r"\boxed{1{,}000}", "1000", "marker"),
    Case("latex thin space thousands", r"\boxed{1\,000\,000}", "1000000", "marker"),
    Case("narrow no-break space thousands", "#### 1\u202f000", "1000", "marker"),
    Case("malformed group", "#### 1,23", "123", "ambiguous"),
    Case("malformed long group", "#### 1,2345", "12345", "ambiguous"),
    Case("group after four digits", "#### 1234,567", "1234567", "ambiguous"),
    Case("trailing zeros", "#### 18.00", "18", "marker"),
    Case("no rounding up", "#### 17.9999999999999999999", "18", "wrong", "17.9999999999999999999"),
    Case("18.5 is not 18", "The answer is: 18.5", "18", "wrong", "18.5"),
    Case("8.5 is not 9", "The answer is: 8.5", "9", "wrong", "8.5"),
    Case("leading point", "The answer is: .5", "0.5", "marker"),
    Case("leading point with currency", "The answer is: $.50", "1/2", "marker"),
    Case("leading zeros", "#### 018", "18", "marker"),
    Case("fraction", "The answer is: 1/2", "0.5", "marker"),
    Case("fraction that is whole", "The answer is: 36/2", "18", "marker"),
    Case("division sign", "The answer is: 36 ÷ 2", "18", "marker"),
    Case("mixed number", "The answer is: 2 1/2 cups", "2.5", "marker"),
    Case("improper mixed number is two numbers", "The answer is: 18 36/2", "36", "ambiguous"),
    Case("vulgar fraction", "The answer is: 2½", "2.5", "marker"),
    Case("latex fraction", r"\boxed{\frac{1}{2}}", "0.5", "marker"),
    Case("latex short fraction", r"\boxed{\frac12}", "0.5", "marker"),
    Case("latex mixed number", r"The answer is: $-2\dfrac{1}{2}$", "-2.5", "marker"),
    Case("zero denominator", r"The answer is: \frac{1}{0}", "1", "ambiguous"),
    Case("zero denominator, flexible", "1/0", "1", "no answer"),
    Case("a date is no fraction", "#### 5/6/2020", "5/6", "ambiguous"),
    # Currency, percent, units, LaTeX, markdown.
    Case("dollar", "The answer is: $18", "18", "marker"),
    Case("dollar behind", "The answer is: 18$", "18", "marker"),
    Case("us dollar", "The answer is: US$18", "18", "marker"),
    Case("euro", "The answer is: €18", "18", "marker"),
    Case("euro behind", "The answer is: 18 €", "18", "marker"),
    Case("pound", "The answer is: £ 18", "18", "marker"),
    Case("latex dollar", r"The answer is: \$18", "18", "marker"),
    Case("latex dollar and text", r"\boxed{\$1{,}000 \text{ dollars}}", "1000", "marker"),
    Case("percent is not divided", "The answer is: 18%", "18", "marker"),
    Case("percent is not a hundredth", "The answer is: 18%", "0.18", "wrong", "18"),
    Case("latex percent", r"\boxed{18\%}", "18", "marker"),
    Case("no scaling by words", "The answer is: 2 million", "2000000", "wrong", "2"),
    Case("unit", "#### 18 eggs", "18", "marker"),
    Case("unit glued", "#### 18kg", "18", "marker"),
    Case("unit with a power", r"The answer is: 18 \text{cm}^2", "18", "marker"),
    Case("unit with a superscript", "The answer is: 18 m²", "18", "marker"),
    Case("unit per unit", "The answer is: 18 miles/hour", "18", "marker"),
    Case("inline maths", r"The answer is: \(18\).", "18", "marker"),
    Case("bold number", "The answer is: **18**", "18", "marker"),
    Case("bold phrase", "**The final answer is:** 18", "18", "marker"),
    Case("bold inside the phrase", "The **final answer** is **$18.**", "18", "marker"),
    Case("italic, quoted, code", 'The answer is: *"`18`"*', "18", "marker"),
    Case("italic phrase", "_The answer is: 18_", "18", "marker"),
    Case("nested box", r"\boxed{\text{\textbf{18} eggs}}", "18", "marker"),
    Case("calculator annotation", "The answer is: $<<9*2=18>>18", "18", "marker"),
    Case("a name is no number", "The answer is: x2 = 18", "18", "marker"),
    # Minus signs and arithmetic.
    Case("negative", "#### -10", "#### -10", "marker"),
    Case("minus dropped", "#### 10", "#### -10", "wrong", "10"),
    Case("U+2212 minus", "The answer is: \u22123", "#### -3", "marker"),
    Case("U+2013 minus", "The answer is: \u20133", "#### -3", "marker"),
    Case("minus before currency", "The answer is: -$3", "-3", "marker"),
    Case("minus after currency", r"The answer is: \$-3", "-3", "marker"),
    Case("a dash with a space is punctuation", "The answer is - 18", "18", "marker"),
    Case("an em dash is punctuation", "The answer is \u2014 18", "18", "marker"),
    Case("negative fraction", r"\boxed{-\frac{1}{2}}", "-0.5", "marker"),
    Case("subtraction", "The answer is: 10-3 = 7", "7", "marker"),
    Case("subtraction with units", "The answer is: 20 eggs - 2 eggs = 18 eggs", "18", "marker"),
    Case("chain", "The answer is: 2 * 9 = 3 * 6 = $18.", "18", "marker"),
    Case("chain with latex and brackets", r"The answer is: 2 \times (10 - 1) = \boxed{18}", "18", "marker"),
    Case("chain with x", "#### 3x6 = 18", "18", "marker"),
    Case("percent of", "The answer is: 20% of 90 = 18", "18", "marker"),
    Case("sides of an equation", "The answer is: Total = 15 + 3 = 18", "18", "marker"),
    Case("subtraction without a result", "The answer is: 10-3", "10", "ambiguous"),
    Case("product without a result", r"The answer is: 2 \cdot 9", "18", "ambiguous"),
    Case("expression on the right", "The answer is: 18 = 2 * 9", "18", "ambiguous"),
    Case("power", "The answer is: 2**3", "23", "ambiguous"),
    Case("superscript power", "The answer is: 10²", "102", "ambiguous"),
    Case("exponent", "The answer is: 1e3", "1", "ambiguous"),
    Case("time", "The answer is: 7:30 pm", "7", "ambiguous"),
    Case("version", "#### 18.5.2", "18.5", "ambiguous"),
    Case("flexible subtraction is not a negative", "she has 10-3", "3", "flexible"),
    # Several numbers.
    Case("list with a comma", "The answer is: 3, 18", "18", "ambiguous"),
    Case("list with a comma, first right", "The answer is: 18, 3", "18", "ambiguous"),
    Case("list without spaces", "The answer is: 1,2,3", "123", "ambiguous"),
    Case("list with and", "The answer is: 3 and 18", "3", "ambiguous"),
    Case("list with or", r"The answer is 18 or \boxed{19}", "18", "ambiguous"),
    Case("list with blanks", "#### 18 19", "18", "ambiguous"),
    Case("range", "The answer is: 3 to 5", "3", "ambiguous"),
    Case("range with a dash", "The answer is: 3\u20135", "3", "ambiguous"),
    Case("list with currency", "The answer is: $3, $18", "3", "ambiguous"),
    Case("list in maths", "The answer is: $3$, $18$", "3", "ambiguous"),
    Case("list with units", "The answer is: 5 apples and 3 pears", "5", "ambiguous"),
    Case("list in a box", r"\boxed{3, 18}", "18", "ambiguous"),
    Case("prose with a number", "The answer is: 18 dollars per 2 weeks", "18", "marker"),
    Case("relative clause", "The answer is: 18, which is 2 * 9", "18", "marker"),
    Case("bracket", "The answer is: 18 (3 x 6)", "18", "marker"),
    Case("reason with arithmetic", "The answer is: 18 because 20 - 2 = 18", "18", "marker"),
    Case("part of a whole", "The answer is: 18 of 20 students", "18", "marker"),
    Case("hyphenated name", "The answer is: 18 COVID-19 tests", "18", "marker"),
    # What follows the answer.
    Case("full stop", "The answer is: 18.", "18", "marker"),
    Case("full stop after decimals", "The answer is: 18.00.", "18", "marker"),
    Case("next sentence", "The answer is: 18. She had 3 more.", "18", "marker"),
    Case("glued letters", "The answer is: 18The answer is: 19", "18", "marker"),
    Case("next line", "The answer is: 18\n19 is wrong", "18", "marker"),
    Case("run-on question", "The answer is: 18\n\nQuestion: Tom has 7\n#### 7", "18", "marker"),
    Case("run-on question, no marker", "she makes 18\nQuestion: Tom has 7. The answer is: 7", "18", "flexible"),
    Case("run-on question counts as finished", "makes 18\nQuestion: Tom has 7", "18", "flexible", finished=False),
    Case("Question inside a line stays", "Question: 7\nThe answer is: 18", "18", "marker"),
    Case("carriage return", "The answer is: 18\r\n\r\nQuestion: 7", "18", "marker"),
    # Unicode.
    Case("no-break spaces", "The\u00a0answer\u00a0is:\u00a018\u00a0eggs", "18", "marker"),
    Case("zero-width space", "####\u200b\u200b18", "18", "marker"),
    Case("full-width digits", "The answer is：１８", "18", "marker"),
    Case("chinese around the number", "The answer is: 共18個", "18", "marker"),
    # No marker, truncated, nothing.
    Case("flexible only", "She makes 9 * 2 = $18 every day.", "18", "flexible"),
    Case("flexible thousands", "so 70,000.", "70000", "flexible"),
    Case("flexible takes the last", "18 in all, 3 per day", "18", "flexible wrong", "3"),
    Case("marker without any number", "17 or 18. The answer is: unknown", "18", "flexible"),
    Case("truncated", "She makes 9 * 2 = 18", "18", "truncated", finished=False),
    Case("truncated behind a marker", "18 eggs. The answer is:", "18", "truncated", finished=False),
    Case("marker at the limit", "The answer is: 18", "18", "marker", finished=False),
    Case("ambiguous at the limit", "The answer is: 3, 18", "18", "ambiguous", finished=False),
    Case("empty", "", "18", "no answer"),
    Case("empty at the limit", "", "18", "truncated", finished=False),
    Case("words only", "The answer is: eighteen", "18", "no answer"),
    Case("lone comma is not zero", "The answer is: ,", "0", "no answer"),
    Case("lone minus, point, dollar", "#### - . $", "0", "no answer"),
    Case("absurdly long number", "#### " + "9" * 5000, "18", "ambiguous"),
    Case("absurdly long number, flexible", "9" * 5000, "18", "no answer"),
    # References.
    Case("reference is a worked solution", "#### 18", "He buys 3 for $4,000.\n#### 18", "marker"),
    Case("reference text before the hashes is ignored", "#### 3", "He buys 3\n#### 18", "wrong", "3"),
    Case("gsm8k comma reference", "#### 2125", "... = $<<1875+250=2125>>2,125.\n#### 2,125", "marker"),
    Case("gsm8k large comma reference", "The answer is: $114,200", "so $114,200\n#### 114,200", "marker"),
    Case("gsm8k negative reference", "The answer is: -$10", "He lost 10\n#### -10", "marker"),
    Case("bare reference", "#### 18", " 18.0\n", "marker"),
    Case("currency reference", "#### 18", "#### $18.", "marker"),
    Case("metamath reference", "#### 18", "so\n#### 18\nThe answer is: 18", "marker"),
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


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_table(case: Case) -> None:
    result = score(case.continuation, case.reference, finished=case.finished)
    assert describe(result) == case.verdict, result
    if case.answer is not None and case.verdict != "ambiguous":
        assert result.answer == Fraction(case.answer)


def test_table_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 90


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
    "Step 2", "\r", "\u00a0", "\u2028", "e", "(", ")", "_",
]
LOOPS = [
    "1", "1,", "1 ", "1,234", "1.", "-", "#### ", "####\n", "The answer is: ", "the ", "\\boxed{", "{", "1/",
    "1 1/", "a", "a ", " ", "1 a and ", "1 = ", "\\frac{1}{2}", "**", "<<", "<<1", "$", "\\", "\\frac{",
    "Step ", "1 a", "\u2009",
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
    """50,000 characters, forty times a generation's length, in well under what a quadratic pattern would need."""
    for prefix in ("", "The answer is: 1 ", "#### "):
        text = prefix + unit * (50_000 // len(unit))
        start = time.process_time()
        score(text, "18")
        answer_complete(text + "\n")
        assert time.process_time() - start < 5, prefix + unit
