r"""Score one generated answer to a GSM8K-style question: `score(continuation, reference)` (DESIGN.md §3 "Scoring").

The text is the continuation only (never the prompt), cut at the first end-of-sequence string or `\nQuestion:`.

* *marker*: the earliest of `####`, `The (final) answer is:?` (any case), `\boxed{}` that has a number after it on its
  line, in its braces, or at the start of the next line with text when its own line is blank. Only this gives `correct`
  (also when the limit came right after the number).
* *flexible*: no such marker, then the last number of the text. It gives `flexible_correct` only; a marker gives both.
* *truncated*: no marker and not `finished`: the last number of a text that broke off is no answer, so both are False.

What a number is: `1,234` (groups of three; also `1_234`, LaTeX `1{,}234`, `1\,234`, no-break and thin spaces), `18.00`,
`.5`, `36/2`, `1 1/2`, `½`, `\frac{1}{2}`, with `$ € £ ¥ %`, LaTeX, markdown, quotes, units and a full stop around it.
U+2212 and U+2013 are minus signs; a minus counts when it touches the number or its currency sign. Values are compared
as exact rationals: 18.00 = 18, 18.5 != 18, 1/2 = 0.5, no rounding. Nothing rescales: `%`, `k`, `million` are units.

Which number after a marker:
* The first one. Words may stand before it (`The answer is: Janet makes $18`) and after it, with further numbers in the
  prose (`18 dollars per 2 weeks`, `18 (3 x 6)`, `18, which is 2 * 9`, `18. She had 3.`, `18 because 20 - 2 = 18`): 18.
* Several numbers in a list are ambiguous and wrong: `3, 18`, `3 and 18`, `3 or 18`, `3 18`, `1,23`, `3 to 5`, and with
  up to four words of unit between them: `5 apples and 3 pears`, `18 eggs, 3 of them broken`.
* Arithmetic that starts at the first number is followed to its last `=`: `10-3 = 7` is 7, `20% of 90 = 18` is 18.
  Left without a result it is ambiguous (`10-3`, `2 * 9`, `18 = 2 * 9`, `10^3`, `7:30`, `1e3`): only a fraction is
  evaluated (`36/2`, `36 ÷ 2`). So are `1/0` and numbers of more than 1,000 characters, which are no numbers.
* An earlier marker wins over a later one, also where it is wrong or ambiguous. A marker without a number
  (`#### Solution`) is passed over. `Step 3` is a label, not a number: `#### Step 1` is a common markdown heading.
* Digits glued to a letter before them are a name (`x2`, `H2O`).

Sources: the traps are those collected in lm-eval #1159, #3254, #3438; opencompass #2343, #2426; sglang #29933;
HELM #4337; proeval #19; MetaMath #23. GSM8K's references (14 with a comma and 2 negative in the test set, the rest
unsigned integers): Cobbe et al., arXiv 2110.14168, github.com/openai/grade-school-math.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

SCORER_VERSION = 1  # raise it with every change that can change a score: records carry it, `rescore=true` compares it

STOP = "\nQuestion:"  # the prompt's own opening: whatever follows answers another question

# A 300-token generation cannot hold more; int() would raise at 4,300 digits and is quadratic before that.
_MAX_CHARS = 1000
_MAX_BOX = 300  # characters searched for the brace that closes a box, so that absurd input stays linear


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


# --- Text to plain text. Both steps see one line at a time: what follows a newline cannot change what stands before it,
# --- which is what makes stopping early safe (`answer_complete`).

_CHARACTERS = {
    # Full-width forms. Not NFKC: it turns 10² into 102 and 2½ into 21/2.
    **{0xFF01 + i: 0x21 + i for i in range(94)},
    **dict.fromkeys(map(ord, "\u2212\u2013\u2010\u2011\ufe63"), "-"),
    **dict.fromkeys(map(ord, "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"), None),  # zero width
    **dict.fromkeys(map(ord, "\u2044\u2215\u00f7"), "/"),  # fraction and division signs
    **dict.fromkeys(map(ord, "\u00d7\u22c5\u00b7\u2217"), "*"),  # multiplication signs
    **{ord(c): f"^{n}" for c, n in (("²", 2), ("³", 3))},
}
_VULGAR = {ord("½"): "1/2 ", ord("¼"): "1/4 ", ord("¾"): "3/4 ", ord("⅓"): "1/3 ", ord("⅔"): "2/3 "}
_NOISE = re.compile(
    r"<<[^<>]*>>"  # GSM8K's calculator annotations
    r"|(?i:\bstep\s*[0-9]+)"
    r"|(?<![0-9])\*\*+|\*\*+(?![0-9])"  # markdown bold, but not the power in 2**3
)
_CLEANING = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"\{,\}|(?<=[0-9])(?:\\,|[\u00a0\u2009\u202f])(?=[0-9]{3}(?![0-9]))", ","),  # thousands: 1{,}000, 1\,000
        (r"\\!", ""),
        (r"\\([$%#&_])", r"\1"),
        (r"[\s~]+", " "),
        (r"(?<![0-9A-Za-z])[$€£¥] ?(?=-?\.?[0-9])", ""),  # joins -$18, keeps US$18 apart
        (r"[$€£¥%]", " "),
        (r"(?<=[0-9])(?=\\[dt]?frac|[½¼¾⅓⅔])", " "),  # mixed numbers: 1\frac{1}{2}, 2½
        (r"\\[dt]?frac ?\{ ?(-?[0-9.,]+) ?\} ?\{ ?([0-9.,]+) ?\}", r"\1/\2 "),
        (r"\\[dt]?frac ?([0-9]) ?([0-9])", r"\1/\2 "),
        (r"\\(?:times|cdot)(?![A-Za-z])|(?<=[0-9]) ?[xX] ?(?=[0-9])", " * "),
        (r"\\div(?![A-Za-z])", " / "),
        (r"\\approx(?![A-Za-z])", " ≈ "),
        (r"\\(?:[A-Za-z]+|.)|[{}]", " "),  # every other command: \text, \boxed, \( \[ \left \quad
        (r" {2,}", " "),
    )
)

_MARKER = re.compile(
    r"#{4,}|(?<![a-z])the\s+(?:final\s+)?answer\s+is(?![a-z])\s*:?|(?P<box>\\boxed\s*\{)", re.IGNORECASE
)
_BOX_NEXT = re.compile(r"[^0-9]{0,80}\\boxed")  # `The answer is: $\boxed{18}$, 3 more`: the box says where it ends

# Thousands in groups of exactly three, or plain digits: `[0-9,]+` would read a lone comma, and 1,2,3 as 123.
_DIGITS = r"(?:[0-9]{1,3}(?:[,_][0-9]{3})+(?![0-9])|[0-9]+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]+)?|(?<![0-9A-Za-z.])\.[0-9]+)"
_NUMBER = re.compile(
    r"(?P<sign>(?<![0-9A-Za-z)\]])-)?(?<![0-9A-Za-z])"  # after a digit or a bracket it is a subtraction
    rf"(?:(?P<whole>{_DIGITS}) (?P<part>[0-9]+) ?/ ?(?P<parts>[0-9]+)"
    rf"|(?P<top>{_DECIMAL})(?: ?/ ?(?P<bottom>{_DECIMAL}))?)"
)
# Up to four words. The \b forbids splitting one word into several, which would backtrack as the fourth power.
_UNIT = r"(?:[^\W\d_]+\b ?){0,4}?"
_LINK = re.compile(  # from the end of one number to the start of the next, where the two belong together
    r"""[ "”`)\]]*(?:"""
    rf"(?P<equals>{_UNIT}(?:=+>?|equals\b))"
    r"|(?P<of>of\b(?: the\b)?)"  # 20% of 90 = 18, but `18 of 20 students` is 18
    rf"|(?P<operator>{_UNIT}(?:[+/]|\*\*?|(?<![^\W\d_])-|(?:x|plus|minus|times)\b)"  # a glued - is COVID-19
    r"|\^|e(?=[-+]?[0-9])|[.:'\u2019](?=[0-9]))"
    rf"|(?P<list>{_UNIT}(?:,? ?(?:and|or)\b|[,;&|])|to\b|(?<= )(?=[-.0-9]))"
    r""")[ "“`(\[]*(?=-?\.?[0-9])""",
    re.IGNORECASE,
)


def _plain(line: str) -> str:
    """One line without the noise that could hide a marker: odd dashes and widths, bold, step labels."""
    return _NOISE.sub("", line.translate(_CHARACTERS))


def _clean(text: str) -> str:
    """A piece of a plain line without currency, percent signs, LaTeX and repeated blanks."""
    for pattern, by in _CLEANING:
        text = pattern.sub(by, text)
    return text.translate(_VULGAR).strip()


def _decimal(text: str) -> Fraction | None:
    return Fraction(text.replace(",", "").replace("_", "")) if len(text) <= _MAX_CHARS else None


def _value(number: re.Match[str]) -> Fraction | None:
    """The value of a match of `_NUMBER`; None for a zero denominator, an improper mixed number, an absurd length."""
    whole = _decimal(number["whole"] or "0")
    top = _decimal(number["part"] or number["top"])
    bottom = _decimal(number["parts"] or number["bottom"] or "1")
    if whole is None or top is None or bottom is None or bottom == 0:
        return None
    if number["whole"] and top >= bottom:  # `18 36/2` is two numbers
        return None
    return (whole + top / bottom) * (-1 if number["sign"] else 1)


def _read(text: str, *, leading: bool = False) -> tuple[bool, Fraction | None]:
    """(is there a number, its value or None if ambiguous) for what stands after a marker, by the rules above.

    `leading`: the number must come before any letter (for the line after a marker with nothing on its own line).
    """
    text = _clean(text)
    number = _NUMBER.search(text)
    if number is None or (leading and re.search(r"[^\W\d_]", text[: number.start()])):
        return False, None
    value, unfinished = _value(number), False
    while link := _LINK.match(text, number.end()):
        if link["list"] is not None:
            return True, None
        unfinished = unfinished or link["operator"] is not None
        following = _NUMBER.match(text, link.end())
        if following is None:  # 1e3: digits glued to a letter
            break
        number = following
        if link["equals"] is not None:
            value, unfinished = _value(number), False
    return True, None if unfinished else value


def _box(line: str, start: int) -> tuple[str, bool]:
    """(the content of a box whose opening brace ends at `start`, whether it is closed on this line)."""
    depth = 1
    for i, character in enumerate(line[start : start + _MAX_BOX]):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return line[start : start + i], True
    return line[start : start + _MAX_BOX], False


def _marked(text: str) -> tuple[bool, Fraction | None]:
    """(is there a marker with a number, its value or None if ambiguous), for the earliest one in the text."""
    pending = False  # the last marker had nothing but blanks and formatting after it on its line
    for raw in text.split("\n"):
        line = _plain(raw)
        if pending and re.search(r"[^\W_]", _clean(line)):
            found, value = _read(line, leading=True)
            if found:
                return True, value
            pending = False
        for marker in _MARKER.finditer(line):
            boxed = marker["box"] is not None
            if not boxed and _BOX_NEXT.match(line, marker.end()):
                continue
            content, closed = _box(line, marker.end()) if boxed else (line[marker.end() :], False)
            found, value = _read(content)
            if found:
                return True, value
            pending = not closed and not re.search(r"[^\W_]", _clean(content))
            if not boxed:  # the rest of the line holds no number, whatever markers it holds
                break
    return False, None


def _last_number(text: str) -> Fraction | None:
    numbers = [number for line in text.split("\n") for number in _NUMBER.finditer(_clean(_plain(line)))]
    return _value(numbers[-1]) if numbers else None


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
        line = after.strip().split("\n")[0] if mark else after
        text = _clean(_plain(line))
        number = _NUMBER.fullmatch(text.removesuffix("."))
        value = None if number is None else _value(number)
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
