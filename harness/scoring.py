r"""Score one generated answer to a GSM8K-style question: `score(continuation, reference)` (DESIGN.md §3 "Scoring").

Where the answer stands
 1. Only the continuation is read, never the prompt, up to the first end-of-sequence string or `\nQuestion:`. Markers:
    `####`, `The (final) answer is:?` in any case, `\boxed{}`. A marker gives `correct` and `flexible_correct`, also
    when the limit came right after it.
 2. The earliest marker with an answer behind it on its line (in its braces) counts, also if it is wrong or ambiguous.
 3. `####` also opens Markdown headings, which are passed over: words before the number (`Day 1`, `Step 2: 9 eggs`),
    numbered ones (`1. First find …`, `2) Then`, `(3) Sum`, `1st step`, `1 Find the sum`). An answer's number comes
    first, or behind `answer`, `result` or `total` with a colon, dash, `=` or `is`, or behind any `=` (`x = 18`).
 4. A marker with nothing behind it, or `#### (Final) Answer`: the next line with text is read, by rule 3. A list's
    `- 18` is ambiguous there.
 5. A box holds the whole answer. What touches it (`-\boxed{18}`, `\boxed{18}^2`, `\boxed{3}, \boxed{18}`) makes it
    ambiguous.
What a number is
 6. `1,234` in groups of three (also `1_234`, `1{,}234`, `1\,234`, no-break and thin spaces), `18.00`, `.5`, `36/2`,
    `1 1/2`, `½`, `\frac{1}{2}`; decimal digits of any script; zero-width characters are dropped. The point is decimal
    (1.000 is 1). Values are exact: 18.00 = 18, 18.5 != 18, 1/2 = 0.5, no rounding.
 7. No numbers: names (`x2`, `H2O`, `COVID-19`, `x_1`), labels (`Step 3`), exponents of units (`m²`), keycap emoji,
    circled digits, number words (`eighteen`), which can still make another number ambiguous.
 8. Ambiguous, because they cannot be read: malformed groups (`1,23`, `1'000`, `18.5.2`), times and ratios (`7:30`),
    ordinals (`18th`), powers and roots (`10^3`, `1e3`, `\sqrt{18}`), `18π`, `18x`, `18h30`, `18 tenths`, `1/0`, more
    than 1,000 characters, and scale words (`18k`, `2 million`). Dozens and pairs are units: GSM8K asks for them.
 9. Signs: a minus of any Unicode form before the number or its currency sign, with or without a blank, `minus`,
    `negative`. After a number or a bracket it is a subtraction. Two signs, and a dash between a word and the number
    (`profit - 18`), are ambiguous. An em dash with a blank is punctuation, and brackets are no sign.
10. Currency, `%`, units, LaTeX, Markdown, HTML, quotes and brackets around a number change nothing: 18% is 18.
Which number is the answer
11. The only one on the line, whatever the words around it (`Janet makes $18`). Hedges (`about`, `≈`) are words.
12. A second number is ambiguous (`3, 18`, `3 or 18`, `18–20`, `18 → 20`, `18 dollars 50 cents`, `18 eggs, 3 broken`,
    `18 and a half`) unless one of the next three rules explains it.
13. Circumstances: a period (`In 3 days she sells 18 eggs`) in a sentence without rates (`9 a day for 2 days`),
    `per 2 weeks`, `18 (out) of 20`.
14. Explanations, behind a number that comes first: the next sentence; `because since as which given not`, `after
    selling`; words after a dash or semicolon. A bracket explains if it opens with such a word or its arithmetic comes
    to the number: `18 (3 x 6)`, but `18 (20)` and `2(9)` are ambiguous. So does a reason behind a sentence (`she has
    18 because 2 * 9 = 18`).
15. Equations: the last side that has a number (`2(9) = 18`, `9 eggs per day for 2 days = 18 eggs`). Ambiguous: two
    bare sides that differ (`1 hour = 60 minutes`), a list or an unknown on the left (`2x = 18`), and arithmetic on the
    last side or without any `=` (`10-3`, `2 * 9`, `18 = 2 * 9`). Only a fraction is evaluated.
16. Bounds, denials and words that compute are ambiguous: `not 17`, `at least`, `more than`, `between`, `< 18`, `18+`,
    `18 or more`, `twice 9`, `a third of 54`.
Otherwise
17. *flexible*: without a marker, the last number of the text, with its sign. It gives `flexible_correct` only.
18. *truncated*: no marker and not `finished`. The last number of a text that broke off is no answer: both are False.

Ambiguous is wrong, and counted: an answer taken for right by mistake does more harm than a right one missed.

Sources: the traps are those collected in lm-eval #1159, #3254, #3438; opencompass #2343, #2426; sglang #29933;
HELM #4337; proeval #19; MetaMath #23. GSM8K's references (14 with a comma and 2 negative in the test set, the rest
unsigned integers): Cobbe et al., arXiv 2110.14168, github.com/openai/grade-school-math.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import takewhile

from harness.numbers import Token, plain, signed, tokens, words
from harness.sentence import ends_sentence, single_number

SCORER_VERSION = 2  # raise it with every change that can change a score: records carry it, `rescore=true` compares it

STOP = "\nQuestion:"  # the prompt's own opening: whatever follows answers another question


@dataclass(frozen=True)
class Score:
    """The verdict on one continuation.

    `answer` is what was read, exactly, or None; `method` the rule that read it: "marker", "flexible" or "none".
    `ambiguous`: the marker is not followed by one single number (then `method` is "marker" and `answer` None).
    `truncated`: no marker and not finished. `no_answer`: finished without any number.
    """

    correct: bool
    flexible_correct: bool
    answer: Fraction | None
    method: str
    truncated: bool = False
    no_answer: bool = False
    ambiguous: bool = False


_PHRASE = r"#{4,}|(?<![a-z])the\s+(?:final\s+)?answer\s+is(?![a-z])\s*:?"
_NEXT_PHRASE = re.compile(_PHRASE, re.IGNORECASE)
_MARKER = re.compile(rf"{_PHRASE}|(?P<box>\\boxed\s*\{{)", re.IGNORECASE)
_BOX_NEXT = re.compile(r"[^0-9]{0,80}\\boxed")  # `The answer is: $\boxed{18}$, 3 more`: the box says where it ends
_MAX_TEXT = 2000  # characters read behind a marker, or before the end of a line: bounds the cost of absurd input
_MAX_BOX = 300  # characters searched for the brace that closes a box, for the same reason

_NAMES = words("answer ans result total")
_LABEL = _NAMES | words("so thus hence therefore the my our final correct")
_BESIDE = words(  # before a number that comes first all the same
    "so thus hence therefore about approximately approx roughly around nearly almost exactly only just minus negative"
    " us usd eur gbp inr rs cad aud"
)
_ORDINALS = ("st", "nd", "rd", "th")
_DENIES = words("not isn't between than least most")
_JOINS = ("and", "or", "to", "+", "-", "*", "/")


def _is_heading(line: list[Token], first: int) -> bool:
    """Whether a line behind `####` whose first number stands at `first` is a heading and no answer (rule 3)."""
    lead, after = line[:first], line[first + 1 :]
    label = next((k for k, t in enumerate(lead) if t.lower not in _LABEL and t.text != ","), 0)
    if {t.lower for t in lead[:label]} & _NAMES and lead[label].lower in (":", "=", "is", "-", "—"):
        return False
    while lead and lead[-1].kind != "=" and (lead[-1].kind != "word" or lead[-1].lower in _BESIDE):
        lead.pop()
    if lead:
        return lead[-1].kind == "word"
    if after and not after[0].spaced and after[0].lower in _ORDINALS:
        return True
    if after and after[0].text in ("-", "—"):
        after = after[1:]
    marks = len(list(takewhile(lambda t: t.text in (".", ")", "]", ":") and not t.spaced, after)))
    title = [t for t in after[marks : marks + 2] if t.kind == "word"]
    if marks:
        return title[:1] == after[marks : marks + 1] != []  # `1. find`
    return len(title) == 2 and title[0].text[:2].istitle()  # `1 Find the`, but not `18 Eggs`, `18 USD in`


def _read(text: str, *, heading: bool = False) -> tuple[bool, Fraction | None]:
    """(is there an answer, its value or None if ambiguous) in what stands after a marker, or in a box."""
    line = tokens(text[:_MAX_TEXT])
    first = next((k for k, t in enumerate(line) if t.kind == "number"), None)
    if first is None or any(ends_sentence(line, k) for k in range(first)) or (heading and _is_heading(line, first)):
        return False, None
    return True, single_number(line, first)


def _box(line: str, start: int) -> tuple[str, str, bool]:
    """(a box's content, what follows it on the line, whether it is closed there); its brace ends at `start`."""
    depth = 1
    for end in range(start, min(len(line), start + _MAX_BOX)):
        depth += (line[end] == "{") - (line[end] == "}")
        if depth == 0:
            return line[start:end], line[end + 1 :], True
    return line[start : start + _MAX_BOX], "", False


def _is_touched(before: str, after: str) -> bool:
    """Whether what stands beside a box makes its content another number, or one of several (rule 5)."""
    left = tokens(before[-60:] + (" 1" if before[-1:].isalpha() else "1"))  # 1 stands for the box
    right = tokens("1" + after[:60])
    if signed(left, len(left) - 1) != 1 or right[0].value != 1 or {t.lower for t in left[-4:-1]} & _DENIES:
        return True
    if [t.kind for t in left[-3:-1]] == ["number", "op"] or [t.kind for t in left[-2:-1] if t.text != "*"] == ["op"]:
        return True
    end = next((k for k in range(1, len(right)) if ends_sentence(right, k)), len(right))
    if any(right[k].text == "□" and right[k - 1].lower in (*_JOINS, ",") for k in range(2, end)):
        return True
    return len(right) > 2 and right[2].kind == "number" and right[1].lower in _JOINS


def _marked(text: str) -> tuple[bool, Fraction | None]:
    """(is there a marker with an answer, its value or None if ambiguous), for the earliest one in the text."""
    pending = False  # the last marker had nothing but blanks and formatting after it on its line
    for raw in text.split("\n"):
        line = plain(raw)
        if pending and _has_text(line):
            pending = False
            if not re.match(r"\W*\\boxed", line):
                quoted = line.lstrip("> ")
                found, value = _read(quoted, heading=True)
                if found:
                    return True, None if quoted.startswith("- ") else value  # a list's dash or a sign
        opening = re.match(r"[\W_]*", line)  # what stands before any text
        for marker in _MARKER.finditer(line):
            start, end = marker.span()
            if marker["box"]:
                content, after, closed = _box(line, end)
                found, value = _read(content)
                if found:
                    return True, None if _is_touched(line[:start], after) else value
                pending = not closed and not _has_text(content)
            elif not _BOX_NEXT.match(line, end):
                following = _NEXT_PHRASE.search(line, end)
                content = line[end : following.start() if following else len(line)]
                hashes = marker[0].startswith("#")
                found, value = _read(content, heading=hashes)
                if found:
                    return True, value
                closing = hashes and opening is not None and start > opening.end()  # `#### Step 1 ####`
                pending = not closing and not _has_text(content, beside_label=hashes)
    return False, None


def _has_text(line: str, *, beside_label: bool = False) -> bool:
    """Whether there is a word or number in the line; with `beside_label`, one besides `Final Answer`."""
    found = {t.lower for t in tokens(line[:_MAX_TEXT]) if t.kind in ("word", "number")}
    return bool(found) and not (beside_label and "answer" in found and found <= _LABEL)


def _last_number(text: str) -> Fraction | None:
    for raw in reversed(text.split("\n")):
        line = tokens(plain(raw)[-_MAX_TEXT:])
        numbers = [k for k, t in enumerate(line) if t.kind == "number"]
        if numbers:
            return signed(line, numbers[-1])
    return None


def cut(text: str, eos: Iterable[str] = ()) -> str:
    r"""The text before the first `\nQuestion:` or end-of-sequence string (without a newline in it; "" is ignored)."""
    starts = [text.find(stop) for stop in (STOP, *eos) if stop]
    return text[: min((i for i in starts if i >= 0), default=len(text))]


def answer_complete(text: str, eos: Iterable[str] = ()) -> bool:
    """Whether generation may stop here: no further text can change the score.

    True once the text holds a stop string, or a newline after the line that the earliest marker's number stands on.
    Property-tested: the first such prefix has the same Score as the whole text, for either value of `finished`.
    """
    kept = cut(text, eos)
    if len(kept) < len(text):
        return True
    return _marked(kept[: kept.rfind("\n") + 1])[0]


def reference_answer(reference: str) -> Fraction:
    """The exact value of a reference: one number alone, or a solution whose last `####` one number alone follows.

    Stricter than reading a model's text (no words, no list): a bad reference would silently make every answer wrong.
    Raises ValueError where there is no such number.
    """
    if isinstance(reference, str):
        _, mark, after = reference.rpartition("####")
        line = tokens(plain(after.strip().split("\n")[0] if mark else after))
        shape = "".join("1" if t.kind == "number" else t.text for t in line)
        value = signed(line, shape.startswith("-")) if re.fullmatch(r"-?1%?\.?", shape) else None
        if value is not None:
            return value
    shown = repr(reference)
    shown = shown if len(shown) <= 120 else "..." + shown[-117:]  # the end: that is where the answer should stand
    raise ValueError(
        f"reference: no answer in it, got {shown}; expected a number, or a worked solution that ends with "
        "'#### <number>'. Correct this row of the data."
    )


def score(continuation: str, reference: str, *, finished: bool = True, eos: Iterable[str] = ()) -> Score:
    """Score one continuation against its reference, by the rules in the module's docstring.

    `finished`: the model ended by itself within the limit (end of sequence or a stop string; a stop string in the text
    counts, whatever is passed). Raises ValueError for a reference without an answer, and for no continuation.
    """
    expected = reference_answer(reference)
    text = cut(continuation, eos)
    finished = finished or len(text) < len(continuation)
    found, answer = _marked(text)
    if found:
        right = answer == expected
        return Score(right, right, answer, "marker", ambiguous=answer is None)
    if not finished:
        return Score(False, False, None, "none", truncated=True)
    answer = _last_number(text)
    if answer is None:
        return Score(False, False, None, "none", no_answer=True)
    return Score(False, answer == expected, answer, "flexible")
