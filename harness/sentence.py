"""Which number of a tokenized line is the answer (rules 11 to 16 of harness/scoring.py).

A list of words is short on purpose: a construction that it does not know leaves a second number unexplained, and the
answer ambiguous.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from harness.numbers import VARIABLES, Token, signed, words

Line = list[Token]

_EXPLAINS = words("because since as which given namely not")
_PERIOD_OPENS = words("in for after before during within over every")
_TIME = words(
    "second seconds minute minutes min hour hours day days night nights week weeks weekend weekends month months year"
    " years decade decades century centuries morning mornings afternoon afternoons evening evenings"
)
_RATE = words("per each every apiece at daily hourly weekly monthly yearly times")
_UNSETTLES = words("and or to because since")  # on the left of an equation
_CONNECTS = words("and or to plus minus but")
_BOUNDS = words("more less fewer so above below over up under higher lower greater older")
_ONES = words("a an one another")
_PARTS = words("half third quarter fifth sixth eighth tenth")
_COUNTS = words(
    "zero two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion half"
)
_COMPUTES = words("twice thrice double triple half root squared cubed plus times divided multiplied")
_DENIES = _COMPUTES | words(
    "minus negative not never no none neither nor cannot without except excluding unlike instead between either"
    " wrong incorrect"
)
_BEFORE_BOUND = words("than over under below above beyond least most exceeds exceeding until less but")
_FUNCTION_OF = words(
    "square cube opposite reciprocal inverse factorial logarithm product multiple multiples fraction power quarter"
    " third fourth fifth sixth seventh eighth ninth tenth percent"
)
_AFTER_DENIES = words("plus minus divided multiplied negative wrong incorrect")
_RIGHT = words("right correct true valid possible it the")
_TITLES = words("mr mrs ms dr st vs")


def _is_count(token: Token) -> bool:
    return token.kind == "word" and any(part in _COUNTS for part in token.lower.split("-"))


def _at(line: Line, k: int) -> Token:
    return line[k] if 0 <= k < len(line) else Token("end", "", True)


def ends_sentence(line: Line, k: int) -> bool:
    """Whether the token at k ends a sentence: `18. She …`, but not `18.5`, `18 ft. 3 in.`, `Mr. Smith`."""
    following = _at(line, k + 1)
    if line[k].text not in (".", "!") or _at(line, k - 1).lower in _TITLES:
        return False
    if following.kind == "word":
        return not following.text[0].islower()
    return following.kind == "end" or (following.spaced and following.kind == "other")


def single_number(line: Line, first: int) -> Fraction | None:
    """The answer in a line whose first number stands at `first`; None if it is ambiguous."""
    line = _without_notes(line)
    sides = _sides(line[: _end(line, first)])
    last = max(n for n, side in enumerate(sides) if any(t.kind == "number" for t in side))
    value = _one(sides[last])
    return value if all(_agrees(side, value) for side in sides[:last]) else None


def _sides(line: Line) -> list[Line]:
    """The line split at its equals signs."""
    cuts = [-1, *(k for k, t in enumerate(line) if t.kind == "="), len(line)]
    return [line[a + 1 : b] for a, b in pairwise(cuts)]


def _without_notes(line: Line) -> Line:
    """The line without the brackets that explain a number before them (rule 14)."""
    kept: Line = []
    value: Fraction | None = None  # of the number before
    skip_to = 0
    for k, token in enumerate(line):
        if k < skip_to:
            continue
        if token.text in "([" and token.spaced and value is not None:
            end = next((n for n in range(k, min(len(line), k + 60)) if line[n].text in ")]"), None)
            if end is not None and _explains(line[k + 1 : end], value):
                skip_to = end + 1
                continue
        if token.kind == "number":
            value = signed(line, k)
        kept.append(token)
    return kept


def _explains(note: Line, value: Fraction) -> bool:
    return bool(note) and (note[0].lower in _EXPLAINS or any(_arithmetic(side) == value for side in _sides(note)))


def _arithmetic(side: Line) -> Fraction | None:
    """The value of `9 eggs x $2 + 1`, without brackets; None for anything else."""
    total, term, operator = Fraction(0), None, "+"
    for k, token in enumerate(side):
        if token.kind == "number":
            if token.value is None or not operator:
                return None
            if operator == "*" and term is not None:
                term *= token.value
            elif operator == "/" and term is not None and token.value:
                term /= token.value
            elif operator in "+-":
                total += term or 0
                term = token.value if operator == "+" else -token.value
            else:
                return None
            operator = ""
        elif token.text in ("+", "-", "*", "/") or (token.lower == "x" and _at(side, k + 1).kind == "number"):
            if operator:
                return None
            operator = token.text.replace("x", "*")
        elif token.kind != "word" or token.lower in _CONNECTS or _is_count(token):
            return None
    return None if operator or term is None else total + term


def _end(line: Line, first: int) -> int:
    """Where the answer's sentence ends, or its explanation begins (rule 14).

    Where words stand before the number, only a reason that comes to the same number is an explanation.
    """
    if any(t.kind == "word" for t in line[:first]):
        last = next(t for t in reversed(line) if t.kind == "number")
        reason = next((k for k in range(first, len(line)) if line[k].lower in ("because", "since")), None)
        return len(line) if reason is None or last.value != line[first].value else reason
    equation = any(t.kind == "=" for t in line[first:])
    for k in range(first + 1, len(line)):
        if ends_sentence(line, k) or _opens_clause(line, k, equation):
            return k
        if _opens_explanation(line, k):
            return k - 1 if line[k - 1].text in ("-", "—") else k
    return len(line)


def _opens_clause(line: Line, k: int, equation: bool) -> bool:
    """Whether a dash or semicolon parts the answer from words of explanation: `18 - the eggs`, not `18 - x`."""
    token, following = line[k], _at(line, k + 1)
    if following.kind != "word" or following.lower in _CONNECTS or following.text in VARIABLES or _is_count(following):
        return False
    dash = token.text == "—" or (token.kind == "-" and token.spaced and following.spaced)
    return token.text == ";" or (dash and not equation)


def _opens_explanation(line: Line, k: int) -> bool:
    word, following = line[k].lower, _at(line, k + 1).lower
    if word in ("as", "not"):  # `18, not 20`, but `18 is not it`, `18 eggs as well as`
        return line[k - 1].kind != "word" and following not in ("well", "many", "much", "few")
    return word in _EXPLAINS or (word in ("after", "by", "from") and following.endswith("ing"))


def _agrees(side: Line, value: Fraction | None) -> bool:
    """Whether a left side leaves the equation's result unambiguous (rule 15)."""
    numbers = [k for k, t in enumerate(side) if t.kind == "number"]
    if not numbers:
        return True
    for k, t in enumerate(side):
        if k < numbers[0] and t.text not in VARIABLES:
            continue
        unknown = t.text in VARIABLES and _at(side, k + 1).kind != "number"
        if unknown or t.text in (",", ";", "<", ">", "→", "≈") or t.lower in _UNSETTLES:
            return False
    sign = numbers[0] - 1
    computes = any(t.kind == "op" or (t.kind == "-" and k != sign) or t.lower in _COMPUTES for k, t in enumerate(side))
    return len(numbers) > 1 or computes or signed(side, numbers[0]) in (None, value)


def _one(side: Line) -> Fraction | None:
    """The one number of a side that is neither a circumstance nor qualified; None if there are several or none."""
    numbers = [k for k, t in enumerate(side) if t.kind == "number" or _is_count(t)]
    digit = next(k for k in numbers if side[k].kind == "number")
    if _at(side, digit - 1).text == "(":  # eighteen (18)
        numbers = [k for k in numbers if k >= digit]
    rate = any(
        t.lower in _RATE or t.text == "/" or (t.lower in ("a", "an") and _at(side, k + 1).lower in _TIME)
        for k, t in enumerate(side)
    )
    if len(numbers) > 1:
        numbers = [k for k in numbers if not _is_circumstance(side, k, rate)]
    repeated = [k for k in numbers[1:] if side[k - 1].text == "□" and side[k].value == signed(side, numbers[0])]
    if len(numbers) - len(repeated) != 1 or side[numbers[0]].kind != "number":
        return None
    k = numbers[0]
    return signed(side, k) if _clear_before(side[:k]) and _clear_after(side, k) else None


def _is_circumstance(side: Line, k: int, rate: bool) -> bool:
    """Whether the number at k is the object of a preposition that makes it no answer (rule 13)."""
    before = k - 2 if _at(side, k - 1).lower == "the" else k - 1
    opens, unit = _at(side, before).lower, _at(side, k + 1)
    if opens == "of":
        whole = _at(side, before - 1)
        plain = whole.kind == "number" and whole.value is not None and whole.value.denominator == 1
        return before == 0 or plain or whole.lower == "out"
    if opens in ("per", "every"):
        return unit.kind == "word" and unit.lower not in _CONNECTS
    period = unit.lower in _TIME or (unit.kind == "word" and _at(side, k + 2).lower in _TIME)
    return opens in _PERIOD_OPENS and period and not rate


def _clear_before(lead: Line) -> bool:
    """Whether nothing before the answer denies it, bounds it or computes with it (rules 9 and 16)."""
    if lead and (lead[-1].kind == "-" or lead[-1].lower in ("minus", "negative")):
        lead = lead[:-1]  # the sign
    for n, token in enumerate(lead):
        if token.lower in _DENIES or token.lower.endswith("n't"):
            return False
        if token.kind == "op" and not (token.text in "*+" and n == 0) and not _is_emphasis(lead, n):
            return False
        if token.kind == "-" and _at(lead, n + 1).kind != "word":
            return False
    said = [t.lower for t in lead if t.kind == "word"]
    bound = _at(lead, len(lead) - 1).lower in _BEFORE_BOUND or said == ["up", "to"]
    return not bound and not (said[-1:] == ["of"] and _FUNCTION_OF & set(said[-2:]))


def _clear_after(side: Line, k: int) -> bool:
    """The same for what stands after the answer at k."""
    for n in range(k + 1, len(side)):
        token, word, following = side[n], side[n].lower, _at(side, n + 1)
        if word in _AFTER_DENIES or ((word == "not" or word.endswith("n't")) and following.lower in _RIGHT):
            return False
        if (word, following.lower) in (("at", "least"), ("at", "most"), ("below", "zero")):
            return False
        if word in ("and", "or", "to") and (
            following.kind == "end"
            or following.lower in _BOUNDS
            or (following.lower in _ONES and _at(side, n + 2).lower in _PARTS | _BOUNDS)
        ):
            return False
        if token.kind == "-" and (following.kind != "word" or following.text in VARIABLES):
            return False
        if token.kind == "op" and not (token.text == "/" and following.kind == "word") and not _is_emphasis(side, n):
            return False
    return True


def _is_emphasis(line: Line, n: int) -> bool:
    """Whether the token at n is an asterisk that touches one side only, as in `*18* eggs`."""
    asterisk, following = line[n], _at(line, n + 1)
    closing = not asterisk.spaced and following.kind == "other" and following.text not in ("(", "□")
    return asterisk.text == "*" and (asterisk.spaced != following.spaced or closing)
