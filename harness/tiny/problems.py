"""The embedded benchmark's rows, in the schemas of MetaMathQA and GSM8K.

Every problem is a pair (family, numbers), and a hash of that pair decides whether it may appear in pre-training, in the
questions (from which training and validation are cut) or in the test set. Within the questions no pair occurs twice. So
no pair is shared between any two splits, whatever the wording. Splits depend on `SPEC` alone, not on a run's seed.

A question's stratum is `known` where pre-training holds its like, and `new` where fine-tuning has to teach it: a new
family, the held-out phrasing of a known one, numbers in words, or a sentence that is beside the point.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from harness.tiny.expressions import NotIntegerError, count_leaf, evaluate, solve_for
from harness.tiny.families import KNOWN, NEW, Family
from harness.tiny.surface import NUMBER_WORDS, Wording, draw_wording, word_problem, worked_solution

PROMPT = "Question: {query} Think step by step.\nAnswer:"
MAX_VALUE = 1500  # largest number in any step: keeps every step within reach of a model of this size

# Everything that decides the data besides the sources: change `version` with any change of the generated rows.
SPEC: dict[str, int | float] = {
    "version": 2,
    "seed": 20240229,
    "questions": 4000,
    "test": 1500,
    "new_share": 0.45,  # of the questions
    "new_family_share": 0.7,  # of the new ones; the others are known families on a new surface
    "hard_rate": 0.12,
    "number_words": 0.25,
    "distractors": 0.15,
}
SPLIT_SHARES = (("pretrain", 0.30), ("question", 0.50), ("test", 0.20))


@dataclass(frozen=True)
class Problem:
    """A problem in one wording; `family` and `numbers` alone decide its split."""

    family: Family
    numbers: tuple[int, ...]
    wording: Wording

    @property
    def key(self) -> tuple[str, tuple[int, ...]]:
        """What no two splits share."""
        return self.family.name, self.numbers

    @property
    def stratum(self) -> str:
        """`known` or `new`."""
        in_words = self.wording.number_words and any(n < len(NUMBER_WORDS) for n in self.numbers)
        seen = self.family in KNOWN and self.wording.phrasing in self.family.pretrained
        return "known" if seen and not in_words and not self.wording.distractor else "new"

    @property
    def text(self) -> str:
        """The question as a reader sees it."""
        return word_problem(self.family, self.numbers, self.wording)

    def steps(self) -> tuple[list[str], int]:
        """The worked steps `a+b=c` and the answer."""
        steps: list[str] = []
        return steps, evaluate(self.family.expr, self.numbers, steps)


def split_of(key: tuple[str, tuple[int, ...]]) -> str:
    """`pretrain`, `question` or `test`: a hash of the pair (family, numbers)."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    for name, share in SPLIT_SHARES:
        if point < share:
            return name
        point -= share
    return SPLIT_SHARES[-1][0]


def draw_numbers(rng: Random, family: Family, split: str) -> tuple[int, ...]:
    """Numbers of `split`, redrawn until every step is a positive integer of at most MAX_VALUE."""
    ranges = family.hard if rng.random() < SPEC["hard_rate"] else family.ranges
    while True:
        numbers = tuple(rng.randint(low, high) for low, high in ranges)
        if split_of((family.name, numbers)) != split:
            continue
        try:
            steps: list[str] = []
            evaluate(family.expr, numbers, steps)
            if all(int(step.split("=")[1]) <= MAX_VALUE for step in steps):
                return numbers
        except NotIntegerError:
            continue


def draw_known(rng: Random, split: str) -> Problem:
    """A problem of a known family in a phrasing of pre-training, plain."""
    family = rng.choice(KNOWN)
    return Problem(family, draw_numbers(rng, family, split), draw_wording(rng, family.pretrained))


def draw_new(rng: Random, split: str) -> Problem:
    """A problem of a new family, or of a known one on a surface that pre-training never shows."""
    rates = (SPEC["number_words"], SPEC["distractors"])
    if rng.random() < SPEC["new_family_share"]:
        family = rng.choice(NEW)
        wording = draw_wording(rng, range(len(family.phrasings)), *rates)
        return Problem(family, draw_numbers(rng, family, split), wording)
    while True:
        family = rng.choice(KNOWN)
        wording = draw_wording(rng, range(len(family.phrasings)), *rates)
        problem = Problem(family, draw_numbers(rng, family, split), wording)
        if problem.stratum == "new":
            return problem


def _distinct(split: str, count: int) -> tuple[Problem, ...]:
    """`count` problems of `split`, no (family, numbers) twice."""
    rng = Random(f"{SPEC['seed']}-{split}")
    problems: dict[tuple[str, tuple[int, ...]], Problem] = {}
    while len(problems) < count:
        draw = draw_new if rng.random() < SPEC["new_share"] else draw_known
        problem = draw(rng, split)
        while problem.key in problems:
            problem = draw(rng, split)
        problems[problem.key] = problem
    return tuple(problems.values())


@lru_cache(maxsize=1)
def question_problems() -> tuple[Problem, ...]:
    """The problems behind `question_rows`, in the same order."""
    return _distinct("question", int(SPEC["questions"]))


@lru_cache(maxsize=1)
def test_problems() -> tuple[Problem, ...]:
    """The problems behind `test_rows`, in the same order."""
    return _distinct("test", int(SPEC["test"]))


test_problems.__test__ = False  # type: ignore[attr-defined]  # pytest would collect the name where it is imported


def _reference_row(problem: Problem) -> dict[str, str]:
    steps, answer = problem.steps()
    solution = worked_solution(steps, answer, style=0)
    return {"question": problem.text, "answer": solution, "stratum": problem.stratum}


def question_rows() -> list[dict[str, str]]:
    """The analogue of GSM8K-train: `question, answer, stratum`, the answer ending `#### 18`."""
    return [_reference_row(problem) for problem in question_problems()]


def test_rows() -> list[dict[str, str]]:
    """The test set: `question, answer, stratum`, from problems in no other split."""
    return [_reference_row(problem) for problem in test_problems()]


test_rows.__test__ = False  # type: ignore[attr-defined]


def _row(kind: str, query: str, original: str, steps: list[str], answer: int, style: int) -> dict[str, str]:
    response = f"{worked_solution(steps, answer, style)}\nThe answer is: {answer}"
    return {"type": kind, "query": query, "original_question": original, "response": response}


def _inverse_row(problem: Problem, kind: str, rng: Random) -> dict[str, str] | None:
    """A row that gives the answer and asks for one number of the question; None where no number occurs exactly once."""
    expr, numbers = problem.family.expr, problem.numbers
    candidates = [i for i in range(len(numbers)) if count_leaf(expr, i) == 1]
    if not candidates:
        return None
    unknown = rng.choice(candidates)
    answer = evaluate(expr, numbers, [])
    steps: list[str] = []
    value = solve_for(expr, unknown, numbers, answer, steps)
    masked = word_problem(problem.family, numbers, problem.wording, unknown)
    if kind == "GSM_SV":
        asked = f"The result is {answer}. What is"
    else:
        asked = f"If we know the answer to the above question is {answer}, what is"
    return _row(
        kind, f"{masked} {asked} the value of unknown variable x?", problem.text, steps, value, rng.randrange(3)
    )


def train_rows() -> list[dict[str, str]]:
    """MetaMathQA-like rows `type, query, original_question, response`, in its proportions: per question one answer
    augmentation and one rephrasing, and a self-verification row for one half, a FOBAR row for the other."""
    rng = Random(f"{SPEC['seed']}-train")
    rows: list[dict[str, str]] = []
    for index, problem in enumerate(question_problems()):
        steps, answer = problem.steps()
        text = problem.text
        rows.append(_row("GSM_AnsAug", text, text, steps, answer, rng.randrange(3)))
        other = word_problem(problem.family, problem.numbers, problem.wording.rephrased(problem.family, rng))
        rows.append(_row("GSM_Rephrased", other, text, steps, answer, rng.randrange(3)))
        inverse = _inverse_row(problem, ("GSM_SV", "GSM_FOBAR")[index % 2], rng)
        if inverse is not None:
            rows.append(inverse)
    return rows
