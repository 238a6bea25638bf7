r"""One line of text as tokens: numbers with exact values, words, operators (rules 6 to 10 of harness/scoring.py).

Everything here sees one line at a time and takes time linear in its length.
"""

from __future__ import annotations

import html
import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple


class Token(NamedTuple):
    """A piece of a line. `value` is a number's value without its sign, or None if it cannot be read (rule 8)."""

    kind: str  # "number", "word", "=", "-" (minus or hyphen), "op" (another operator, a relation, a root) or "other"
    text: str
    spaced: bool  # a blank stands before it
    value: Fraction | None = None

    @property
    def lower(self) -> str:
        return self.text.lower()


# A 300-token generation cannot hold more; int() would raise at 4,300 digits and is quadratic before that.
_MAX_CHARS = 1000


def _each(characters: str, by: str) -> dict[int, str | None]:
    return dict.fromkeys(map(ord, characters), by)


_CHARACTERS: dict[int, str | None] = {
    # Full-width forms. Not NFKC for all: it turns 10² into 102 and 2½ into 21/2.
    **{0xFF01 + i: chr(0x21 + i) for i in range(94)},
    **{
        c: " " + unicodedata.normalize("NFKC", chr(c)).replace("\u2044", "/") + " "  # ½ and the like
        for c in (*range(0xBC, 0xBF), *range(0x2150, 0x215F))
    },
    **_each("¢£¤¥", "$"),
    **dict.fromkeys(range(0x20A0, 0x20C1), "$"),  # the other currency signs
    **_each("\u2212\u2010\u2011\u2012\u2013\ufe63\u2796", "-"),
    **_each("\u2014\u2015\ufe58", "—"),
    **_each("\u2044\u2215\u00f7\u2797", "/"),
    **_each("\u00d7\u22c5\u00b7\u2217\u2715\u2716\u2062", "*"),
    **_each("\u2795\u2064", "+"),
    **_each("\u2018\u2019\u2032", "'"),
    **_each("\u2192\u21d2\u27f6\u27f9\u2194\u279c", "→"),
    **_each("≤≥≠≪≫≮≯", "<"),
    **_each("\u221b\u221c", "√"),
    **_each("\u066c\u2063", ","),  # Arabic thousands separator, invisible separator
    **_each("\u066b", "."),
    **_each("\u3002", ". "),
    **dict(zip(map(ord, "ˢᵗⁿᵈʳʰ"), "stndrh", strict=True)),
    # Zero-width and bidirectional marks, soft hyphen, variation selectors.
    **dict.fromkeys([0xAD, 0x61C, 0x180E, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]),
    **dict.fromkeys([0x2060, 0x2061, 0xFEFF, 0xFE0E, 0xFE0F]),
}
_SCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻₀₁₂₃₄₅₆₇₈₉", "0123456789-0123456789")
_KEYCAP = re.compile("[0-9#*]\ufe0f?\u20e3")
_RAISED, _LOWERED = re.compile("[⁰¹²³⁴-⁹⁻]+"), re.compile("[₀-₉]+")
_STRUCK = re.compile("(?<=[0-9])[\u0300-\u036f\u20d0-\u20f0]+")  # combining marks, as in struck-out digits
_OTHER_DIGIT = re.compile(r"(?![0-9])\d")  # of any script
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


def _compiled(*rules: tuple[str, str]) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(pattern), by) for pattern, by in rules)


_MARKUP = _compiled(
    (r"<<[^<>]*>>", ""),  # GSM8K's calculator annotations
    (r"(?i)<sup>", "^"),
    (r"(?i)<sub>", "_"),
    (r"</?[A-Za-z][^<>]{0,200}>", " "),
    (r"(?<![0-9])\*\*+|\*\*+(?![0-9])", ""),  # bold, but not the power in 2**3
)
_CLEANING = _compiled(
    (r"\{,\}|(?<=[0-9])(?:\\[,;]|[\u00a0\u2009\u202f])(?=[0-9]{3}(?![0-9]))", ","),  # thousands: 1{,}000, 1\,000
    (r"\\!", ""),
    (r"\\([$%#&_{}.])", r"\1"),
    (r"\\(?:begin|end) ?\{[A-Za-z]{0,20}\*?\}", " "),
    (r"~~+", " √ "),  # struck out
    (r"[\s~]+", " "),
    (r"(?<![A-Za-z])[A-Z]{1,2}\$", "$"),  # US$18
    (r"(?<![0-9A-Za-z])\$ ?(?=[-+]? ?\.?[0-9])", ""),  # -$18
    (r"\$", " "),
    (r"(?<=[0-9])(?=\\[dtc]?frac)", " "),  # mixed numbers: 1\frac{1}{2}
    (r"\\[dtc]?frac ?\{ ?(-?[0-9.,]+) ?\} ?\{ ?([0-9.,]+) ?\}", r"\1/\2 "),
    (r"\\[dtc]?frac ?([0-9]) ?([0-9])", r"\1/\2 "),
    (r"\\(?:times|cdot|ast)(?![A-Za-z])|(?<=[0-9)]) ?[xX] ?(?=[0-9(])", " * "),
    (r"\\(?:div|over)(?![A-Za-z])", " / "),
    (r"\\(?:approx|sim)(?![A-Za-z])", " ≈ "),
    (r"\\(?:to|(?:long)?rightarrow|Rightarrow|implies)(?![A-Za-z])|(?<!-)-+>", " → "),
    (r"\\(?:leq?|lt|geq?|gt|neq?)(?![A-Za-z])|!=", " < "),
    (r"\\pi(?![A-Za-z])", " π "),
    (r"\\circ(?![A-Za-z])", "°"),
    (r"\\boxed(?![A-Za-z])", " □ "),
    # What changes the number beside it and is not evaluated.
    (
        r"\\(?:sqrt ?(?:\[[^\]]{0,9}\])?|[dtc]?frac|d?binom|log|ln|exp|sin|cos|tan|max|min|sum|prod|int|pm|mp|[lr]floor"
        r"|[lr]ceil|overline|bar|[bx]?cancel|sout|[bp]?mod|not)(?![A-Za-z])|(?<![A-Za-z])sqrt(?![A-Za-z])",
        " √ ",
    ),
    (r"\\(?:[A-Za-z]+|.)|[{}]", " "),  # every other command: \text, \( \[ \left \quad
    (r" {2,}", " "),
    (r" ?\^ ?", "^"),
    (r"(?<=[A-Za-z])_ (?=[0-9])", "_"),  # x_{12}
    (r"\^°", "°"),
)

# Digits with the separators between them: one number or none, never two. `[0-9,]+` would also read a lone comma.
_RUN = r"(?:[0-9]+(?:[.,:'_][0-9]+)*|(?<![0-9A-Za-z.])\.[0-9]+)"
_READABLE = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?:_[0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?")
_TOKEN = re.compile(
    r"(?P<word>(?i:(?:step|part|case|option|question|problem|equation|method|example)s? ?#?[0-9]+(?:\.[0-9]+)*)"
    r"|[A-Za-z]\w*(?:['-]\w+)*(?:\^-?[0-9]+)*|[^\W\d_A-Za-z]+)"
    rf"|(?P<number>(?:(?P<whole>[0-9][0-9,_]*) (?=[0-9]+ ?/ ?[0-9]))?(?P<top>{_RUN})(?: ?/ ?(?P<bottom>{_RUN}))?)"
    r"|(?P<equals>=+>?)|(?P<minus>-)|(?P<op>[*+/^√±<>])|(?P<other>\S)"
)
_KINDS = {"equals": "=", "minus": "-"}


def words(text: str) -> frozenset[str]:
    """The set of the words in `text`."""
    return frozenset(text.split())


VARIABLES = words("x y z n X Y N")
_CHANGED_BY = VARIABLES | words(  # a word after the number
    "hundred thousand million billion trillion lakh crore k K M B π pi squared cubed factorial"
    " halves thirds fourths fifths sixths sevenths eighths ninths tenths hundredths thousandths"
)
_GLUED = words("st nd rd th i o")  # ordinals, 18i, 1O
_UNIT_POWER = re.compile(r"(?:[kcdm]?m|ft|in|yd)[23]")  # m2, which is not h30 or e3


def plain(line: str) -> str:
    """The line in ASCII digits and plain signs, without what could hide a marker: entities, tags, bold, zero widths."""
    line = _ENTITY.sub(lambda entity: html.unescape(entity[0]), line)
    if not line.isascii():
        line = _KEYCAP.sub("•", line)
        line = _RAISED.sub(lambda raised: "^" + raised[0].translate(_SCRIPTS), line)
        line = _LOWERED.sub(lambda lowered: "_" + lowered[0].translate(_SCRIPTS), line)
        line = line.translate(_CHARACTERS)
        line = _STRUCK.sub(" √ ", line)
        line = _OTHER_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), line)
    for pattern, by in _MARKUP:
        line = pattern.sub(by, line)
    return line


def tokens(text: str) -> list[Token]:
    """The tokens of (a part of) a plain line, without currency signs and LaTeX."""
    for pattern, by in _CLEANING:
        text = pattern.sub(by, text)
    found: list[Token] = []
    for match in _TOKEN.finditer(text):
        kind = _KINDS.get(match.lastgroup or "", match.lastgroup or "")
        if match[0].lower() in ("equals", "equal"):
            kind = "="
        spaced = text[match.start() - 1 : match.start()] == " "
        found.append(Token(kind, match[0], spaced, _value(match) if kind == "number" else None))
    return [t._replace(value=None) if t.kind == "number" and _changed(found, k) else t for k, t in enumerate(found)]


def _decimal(text: str) -> Fraction | None:
    if len(text) > _MAX_CHARS or not _READABLE.fullmatch(text):
        return None
    return Fraction(text.replace(",", "").replace("_", ""))


def _value(match: re.Match[str]) -> Fraction | None:
    """None for a malformed group, a zero denominator, an improper mixed number, an absurd length."""
    top, bottom, whole = _decimal(match["top"]), _decimal(match["bottom"] or "1"), _decimal(match["whole"] or "0")
    if top is None or whole is None or not bottom or (match["whole"] and top >= bottom):
        return None
    return whole + top / bottom


def _changed(line: list[Token], k: int) -> bool:
    """Whether what stands beside the number makes it another one: a root, a power, an ordinal, a scale word."""
    n = k - 2 if k > 1 and line[k - 1].kind == "-" else k - 1
    if n > 0 and line[n].text == "(" and not line[n].spaced and line[n - 1].kind == "word":
        return True  # f(18)
    if n > 0 and line[n].text == "(":
        n -= 1
    if n >= 0 and line[n].text in ("√", "±", "^"):
        return True
    if k + 1 == len(line):
        return False
    after = line[k + 1]
    if after.kind != "word":
        return after.text in ("^", "√", "±")
    if after.text in VARIABLES and k + 2 < len(line) and line[k + 2].kind == "number":
        return False  # 9 x .5
    named = any(c.isdigit() for c in after.text) and not _UNIT_POWER.fullmatch(after.text) and "^" not in after.text
    glued = not after.spaced and (named or after.lower in _GLUED)
    return glued or after.text in _CHANGED_BY or re.fullmatch(r"[Rr][0-9]+", after.text) is not None  # 18 R5


def signed(line: list[Token], k: int) -> Fraction | None:
    """The value of the number at k with its sign (rule 9), or None if either cannot be read."""
    value = line[k].value
    sign = line[k - 1] if k else None
    if value is None or sign is None:
        return value
    before = line[k - 2] if k > 1 else None
    operand = before is not None and (before.kind == "number" or before.text in ")]")
    if sign.lower in ("minus", "negative"):
        double = before is not None and before.lower in ("-", "minus", "negative")
        return None if double else value if operand else -value
    if sign.text == "—" and not line[k].spaced:
        return None
    if sign.kind != "-" or operand:
        return value
    if before is not None:
        if before.lower in ("-", "+", "minus", "negative", "|"):
            return None
        if before.kind == "word" and (line[k].spaced or not sign.spaced):
            return None  # `profit - 18`: a dash or a sign
    return -value
