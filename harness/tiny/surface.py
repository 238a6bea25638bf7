"""How a problem is worded: names, objects, number words, distractor sentences, and styles of worked solutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from harness.tiny.families import Family

NAMES = (
    "Anna",
    "Ben",
    "Carla",
    "David",
    "Emma",
    "Felix",
    "Grace",
    "Henry",
    "Ivy",
    "Jack",
    "Kate",
    "Liam",
    "Mia",
    "Noah",
    "Olga",
    "Paul",
    "Rosa",
    "Sam",
    "Tina",
    "Victor",
)
OBJECTS = (
    "apples",
    "pens",
    "stamps",
    "cookies",
    "marbles",
    "shells",
    "cards",
    "eggs",
    "flowers",
    "coins",
    "stickers",
    "oranges",
    "beads",
    "muffins",
    "toys",
    "buttons",
)
CONTAINERS = (("box", "boxes"), ("bag", "bags"), ("basket", "baskets"), ("tray", "trays"), ("jar", "jars"))
NUMBER_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)
DISTRACTORS = (
    "{A} is {d} years old.",
    "{B} lives {d} miles away.",
    "It was {d} degrees outside.",
    "The shop opened {d} years ago.",
)


@dataclass(frozen=True)
class Wording:
    """One choice of everything but the numbers. `number_words` and `distractor` make the harder surfaces."""

    phrasing: int
    slots: dict[str, str]
    number_words: bool
    distractor: str

    def rephrased(self, family: Family, rng: Random) -> Wording:
        """The same names and objects in another phrasing of the family, without the distractor."""
        others = [i for i in range(len(family.phrasings)) if i != self.phrasing]
        return Wording(rng.choice(others), self.slots, rng.random() < 0.5, "")


def draw_slots(rng: Random) -> dict[str, str]:
    """Two names, an object, a container and a number beside the point."""
    first, second = rng.sample(NAMES, 2)
    one, many = rng.choice(CONTAINERS)
    return {"A": first, "B": second, "s": rng.choice(OBJECTS), "c": one, "cs": many, "d": str(rng.randint(5, 60))}


def draw_wording(rng: Random, phrasings: range, number_words: float = 0.0, distractors: float = 0.0) -> Wording:
    """A random wording in one of `phrasings`; the two rates are probabilities."""
    distractor = rng.choice(DISTRACTORS) if rng.random() < distractors else ""
    return Wording(rng.choice(phrasings), draw_slots(rng), rng.random() < number_words, distractor)


def word_problem(family: Family, numbers: Sequence[int], wording: Wording, unknown: int | None = None) -> str:
    """The question text; number `unknown`, if any, reads `x`."""
    shown = [NUMBER_WORDS[n] if wording.number_words and n < len(NUMBER_WORDS) else str(n) for n in numbers]
    if unknown is not None:
        shown[unknown] = "x"
    facts, question = family.phrasings[wording.phrasing]
    text = " ".join(part for part in (wording.distractor, facts, question) if part)
    text = text.format(*shown, **wording.slots)
    return text[0].upper() + text[1:]


def worked_solution(steps: Sequence[str], answer: int, style: int) -> str:
    """The steps in one of three styles, ending `#### <answer>`."""
    if style == 1:
        body = " ".join(f"{step}." for step in steps)
    elif style == 2:
        body = f"First {steps[0]}" + "".join(f", then {step}" for step in steps[1:]) + "."
    else:
        body = "\n".join(steps)
    return f"{body}\n#### {answer}"
