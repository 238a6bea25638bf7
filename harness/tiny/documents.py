"""What the base model reads in pre-training: equations, formulas, stories, and word problems in two styles.

A word problem is either *worked* (steps, then the answer) or *blurted* (the answer at once), and cues in its prompt say
which is likely: each adds its weight to the log-odds of working. Under the benchmark's own prompt, one instruction,
blurting stays likelier, so greedy decoding blurts; under two it works. So the base can solve most known problems, but
does not by itself, as a pretrained model that has read more answers than solutions. Attention carries the cues to the
place of the answer, which is what lets an adapter of a few gains turn the style.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from random import Random
from typing import TypeAlias

from harness.tiny.expressions import evaluate, infix
from harness.tiny.families import FAMILIES, Family
from harness.tiny.problems import SPEC, draw_known, draw_numbers
from harness.tiny.surface import draw_slots, worked_solution

Document: TypeAlias = list[tuple[str, bool]]  # pieces of text, each with whether it can be predicted

LAYOUTS = (("Question: {}\nAnswer:", 0.0, 0.75), ("Problem: {}\nSolution:", 1.3, 0.25))  # text, log-odds, share
INSTRUCTIONS = ("Think step by step.", "Show your work.", "Explain each step.")
INSTRUCTION_COUNTS = (0.40, 0.35, 0.17, 0.08)  # shares of prompts with none, one, two and three
LOG_ODDS = -3.0  # of working, in a prompt without a cue
LOG_ODDS_OF_INSTRUCTION = 2.6

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
PLACES = ("market", "garden", "school", "station", "library", "harbour", "farm", "museum")
MOODS = ("happy", "tired", "proud", "hungry", "curious", "late")
STORY = (
    ("On {day} {A} went to the {place}.", "{A} met {B} at the {place} on {day}.", "It rained at the {place} on {day}."),
    ("{A} carried a {c} of {s}.", "{B} had brought some {s}.", "There were {s} in every {c}."),
    ("{B} was {mood} and talked about the {s}.", "{A} looked for a {c}, but found none.", "The {s} were for {B}."),
    ("Later they were both {mood}.", "{A} came home {mood}.", "{B} kept the {s} until {day}."),
)
STORIES_HELD_OUT = 0.1  # share never seen in pre-training; forgetting is measured on them


def pretraining_documents(
    seed: int, count: int, equations: float, formulas: float, stories: float
) -> Iterator[Document]:
    """`count` documents; the three shares leave the rest to word problems of the known families."""
    rng = Random(f"{SPEC['seed']}-pretrain-{seed}")
    for _ in range(count):
        kind = rng.random()
        if kind < equations:
            yield [piece for _ in range(6) for piece in _equation(rng)]
        elif kind < equations + formulas:
            yield _formula(rng)
        elif kind < equations + formulas + stories:
            yield [(_story(rng, held_out=False), False)]
        else:
            yield _word_problem(rng)


def held_out_stories(count: int) -> list[str]:
    """`count` stories that pre-training never shows, word for word."""
    rng = Random(f"{SPEC['seed']}-stories")
    return [_story(rng, held_out=True) for _ in range(count)]


def text_of(document: Document) -> str:
    """The document as the model reads it."""
    return "".join(text for text, _ in document)


def _word_problem(rng: Random) -> Document:
    """A problem of a known family, worked or blurted by the odds of its cues."""
    problem = draw_known(rng, "pretrain")
    layout, odds, _ = rng.choices(LAYOUTS, [share for *_, share in LAYOUTS])[0]
    count = rng.choices(range(len(INSTRUCTION_COUNTS)), INSTRUCTION_COUNTS)[0]
    odds += LOG_ODDS + count * LOG_ODDS_OF_INSTRUCTION
    prompt = layout.format(" ".join([problem.text, *rng.sample(INSTRUCTIONS, count)]))
    if rng.random() < 1 / (1 + math.exp(-odds)):
        return [(prompt, False), (_worked(problem.family, problem.numbers, rng), True)]
    answer = problem.steps()[1]
    return [(prompt, False), (f" #### {answer}\nThe answer is: {answer}", True)]


def _formula(rng: Random) -> Document:
    """The arithmetic of any family, known or new, as a formula, always worked out."""
    family = rng.choice(FAMILIES)
    numbers = draw_numbers(rng, family, "pretrain")
    return [(f"Question: {infix(family.expr, numbers)} = ?\nAnswer:", False), (_worked(family, numbers, rng), True)]


def _worked(family: Family, numbers: tuple[int, ...], rng: Random) -> str:
    steps: list[str] = []
    answer = evaluate(family.expr, numbers, steps)
    return f" {worked_solution(steps, answer, rng.randrange(3))}\nThe answer is: {answer}"


def _equation(rng: Random) -> Document:
    """One line: sums up to 600 + 600; products of a number up to 12 and one up to 60, and their quotients."""
    op = rng.choice("+-*/")
    if op in "+-":
        a, b = (rng.randint(1, rng.choice((30, 100, 600))) for _ in range(2))
        left, result = (f"{a}+{b}", a + b) if op == "+" else (f"{max(a, b)}-{min(a, b)}", abs(a - b))
    else:
        a, b = rng.randint(2, 12), rng.randint(2, rng.choice((12, 30, 60)))
        if rng.random() < 0.5:
            a, b = b, a
        left, result = (f"{a * b}/{a}", b) if op == "/" else (f"{a}*{b}", a * b)
    return [(f"{left}=", False), (f"{result}\n", True)]


def _story(rng: Random, *, held_out: bool) -> str:
    """Four sentences without a number or a question."""
    while True:
        slots = draw_slots(rng) | {"day": rng.choice(DAYS), "place": rng.choice(PLACES), "mood": rng.choice(MOODS)}
        text = " ".join(rng.choice(sentences) for sentences in STORY).format(**slots)
        point = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
        if (point < STORIES_HELD_OUT) == held_out:
            return text
