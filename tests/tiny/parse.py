"""Reads a word problem as a person would: numbers in the order of the text, and what is to be done with them.

Written from the sentences alone and using nothing of the generator, so that it can contradict the generator's labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

BESIDE_THE_POINT = r"\w+ is N years old|\w+ lives N miles away|It was N degrees outside|The shop opened N years ago"
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
NUMBER = re.compile(
    rf"\b(\d+|(?<!each )(?<!are in )(?!two of them)(?:{'|'.join(WORDS)}))\b", re.IGNORECASE
)  # not "each one get", "are in one box", "the two of them"

# A pattern over the text with every number written N, and the answer from the numbers in the order of the text.
READINGS: list[tuple[str, Callable[..., Fraction]]] = [
    (r"gives \w+ N more \w+\. How many \w+ does \w+ have now", lambda a, b: a + b),
    (r"There are N \w+ on the table\. \w+ puts N more", lambda a, b: a + b),
    (r"After finding N .* adds them to the N", lambda a, b: a + b),
    (r"has N \w+\. \w+ gives N \w+ to \w+\. How many .* left", lambda a, b: a - b),
    (r"were N \w+ in the shop\. \w+ bought N of them", lambda a, b: a - b),
    (r"lost N of the N", lambda a, b: b - a),
    (r"has N \w+\. \w+ buys N \w+ and then gives N", lambda a, b, c: a + b - c),
    (r"found N \w+ on Monday and N \w+ on Tuesday\. \w+ took N", lambda a, b, c: a + b - c),
    (r"took N \w+ from \w+, who had collected N \w+ and later N more", lambda a, b, c: b + c - a),
    (r"has N \w+\. \w+ has N more \w+ than .* together", lambda a, b: a + a + b),
    (r"collected N more \w+ than \w+\. \w+ collected N .* in total", lambda a, b: b + b + a),
    (r"picked N \w+, and \w+ beat that by N\. .* the two of them", lambda a, b: a + a + b),
    (r"has N \w+\. \w+ has N fewer \w+ than .* together", lambda a, b: a + a - b),
    (r"sold N fewer \w+ than \w+\. \w+ sold N .* in total", lambda a, b: b + b - a),
    (r"painted N \w+, but \w+ fell short of that by N\. .* the two of them", lambda a, b: a + a - b),
    (r"^\w+ has N \w+ with N \w+ in each\.", lambda a, b: a * b),
    (r"There are N \w+\. Each \w+ holds N", lambda a, b: a * b),
    (r"packs N \w+ into every \w+ and fills N", lambda a, b: a * b),
    (r"shares N \w+ equally among N friends", lambda a, b: a / b),
    (r"^N \w+ are put into N \w+, the same number in each", lambda a, b: a / b),
    (r"group of N children split N \w+ evenly", lambda a, b: b / a),
    (r"has N \w+\. \w+ buys N \w+ of N \w+ each\.", lambda a, b, c: a + b * c),
    (r"brings N \w+, each with N \w+, to \w+, who already has N", lambda a, b, c: c + a * b),
    (r"On top of N loose \w+, \w+ owns N \w+ filled with N", lambda a, b, c: a + b * c),
    (r"bakes N \w+ of N \w+ each and sells N", lambda a, b, c: a * b - c),
    (r"There are N \w+ in each of N \w+\. \w+ eats N", lambda a, b, c: a * b - c),
    (r"Out of N \w+ holding N \w+ apiece, N \w+ went missing", lambda a, b, c: a * b - c),
    (r"pays with N dollars for N \w+ that cost N dollars each", lambda a, b, c: a - b * c),
    (r"Each of the \w+ costs N dollars\. \w+ had N dollars and bought N", lambda a, b, c: b - a * c),
    (r"took N dollars to the market and paid N dollars apiece for N", lambda a, b, c: a - b * c),
    (r"has N \w+\. \w+ has N times as many \w+\. .* together", lambda a, b: a + a * b),
    (r"read N times as many pages as \w+, who read N pages\. .* in all", lambda a, b: b + a * b),
    (r"counted N \w+, and \w+ counted N times that\. .* the two of them", lambda a, b: a + a * b),
    (r"has N \w+ and \w+ has N \w+\. They put them equally into N", lambda a, b, c: (a + b) / c),
    (r"^N friends share the N \w+ of \w+ and the N \w+ of \w+ equally", lambda a, b, c: (b + c) / a),
    (r"^N red \w+ and N blue \w+ go into N equal heaps", lambda a, b, c: (a + b) / c),
    (r"buys N \w+ at N dollars each and N books at N dollars each", lambda a, b, c, d: a * b + c * d),
    (r"fills N \w+ with N .* fills N \w+ with N .* How many \w+ is that in all", lambda a, b, c, d: a * b + c * d),
    (r"^N rows of N \w+ stand on the left and N rows of N", lambda a, b, c, d: a * b + c * d),
    (r"makes N \w+ every day\. How many \w+ does \w+ make in N weeks", lambda a, b: a * 7 * b),
    (r"sells N \w+ per day\. How many \w+ does it sell over N weeks", lambda a, b: a * 7 * b),
    (r"buys N dozen \w+ and uses N of them", lambda a, b: a * 12 - b),
    (r"From N dozen \w+, N were broken", lambda a, b: a * 12 - b),
    (r"had N \w+\. Half of them were sold and N more were lost", lambda a, b: a - a / 2 - b),
    (r"took half of the N \w+ and \w+ took N others", lambda a, b: a - a / 2 - b),
    (r"gave a quarter of the N \w+ to", lambda a: a - a / 4),
    (r"^A quarter of N \w+ were red and the others were blue", lambda a: a * 3 / 4),
    (r"fills N \w+ with N .* fills N \w+ with N .* How many more", lambda a, b, c, d: a * b - c * d),
    (r"earns N dollars an hour and works N hours\. .* buys N \w+ for N dollars", lambda a, b, c, d: a * b - c * d),
    (r"has N \w+ of N \w+\. After selling N \w+, .* the rest among N", lambda a, b, c, d: (a * b - c) / d),
    (r"^N children share what is left when N .* taken from N \w+ with N", lambda a, b, c, d: (c * d - b) / a),
]


def read(text: str) -> Fraction:
    """The answer to a problem. Raises ValueError unless exactly one reading fits."""
    kept = [s for s in re.split(r"(?<=[.?]) ", text) if not re.match(BESIDE_THE_POINT, NUMBER.sub("N", s))]
    text = " ".join(kept)
    numbers = [Fraction(WORDS.index(n.lower()) if n.lower() in WORDS else int(n)) for n in NUMBER.findall(text)]
    shape = NUMBER.sub("N", text)
    fitting = [answer for pattern, answer in READINGS if re.search(pattern, shape)]
    if len(fitting) != 1:
        raise ValueError(f"{len(fitting)} readings of {text!r}")
    return fitting[0](*numbers)
