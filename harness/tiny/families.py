"""The problem families: which numbers, which arithmetic, which sentences.

Each phrasing is `(facts, question)`; slots are `{A}` `{B}` (names), `{s}` (objects), `{c}` `{cs}` (a container and its
plural), `{0}` `{1}` ... (numbers). The base model is pre-trained on `KNOWN` families, but for the last phrasing of
each; `NEW` families, which name units and fractions in words or chain three steps, appear first in fine-tuning.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.tiny.expressions import Expr

Range = tuple[int, int]


@dataclass(frozen=True)
class Family:
    """One kind of problem. `ranges` and `hard` are inclusive bounds of each number, usual and in the harder tail."""

    name: str
    expr: Expr
    ranges: tuple[Range, ...]
    hard: tuple[Range, ...]
    phrasings: tuple[tuple[str, str], ...]

    @property
    def pretrained(self) -> range:
        """The phrasings that a known family has in pre-training."""
        return range(len(self.phrasings) - 1)


KNOWN = (
    Family(
        "gain",
        ("+", 0, 1),
        ((3, 60), (3, 40)),
        ((60, 500), (40, 400)),
        (
            ("{A} has {0} {s}. {B} gives {A} {1} more {s}.", "How many {s} does {A} have now?"),
            ("There are {0} {s} on the table. {A} puts {1} more {s} there.", "How many {s} are on the table?"),
            ("After finding {1} {s}, {A} adds them to the {0} {s} at home.", "How many {s} does {A} have?"),
        ),
    ),
    Family(
        "lose",
        ("-", 0, 1),
        ((10, 80), (3, 60)),
        ((100, 600), (40, 400)),
        (
            ("{A} has {0} {s}. {A} gives {1} {s} to {B}.", "How many {s} does {A} have left?"),
            ("There were {0} {s} in the shop. {A} bought {1} of them.", "How many {s} are left in the shop?"),
            ("{A} lost {1} of the {0} {s}.", "How many {s} does {A} still have?"),
        ),
    ),
    Family(
        "gain_lose",
        ("-", ("+", 0, 1), 2),
        ((5, 60), (5, 40), (3, 50)),
        ((80, 400), (40, 300), (30, 300)),
        (
            ("{A} has {0} {s}. {A} buys {1} {s} and then gives {2} {s} to {B}.", "How many {s} does {A} have now?"),
            ("{A} found {0} {s} on Monday and {1} {s} on Tuesday. {B} took {2} of them.", "How many {s} are left?"),
            ("{B} took {2} {s} from {A}, who had collected {0} {s} and later {1} more.", "How many {s} does {A} have?"),
        ),
    ),
    Family(
        "more_total",
        ("+", 0, ("+", 0, 1)),
        ((4, 60), (3, 40)),
        ((60, 300), (20, 200)),
        (
            ("{A} has {0} {s}. {B} has {1} more {s} than {A}.", "How many {s} do they have together?"),
            ("{B} collected {1} more {s} than {A}. {A} collected {0} {s}.", "How many {s} did they collect in total?"),
            ("{A} picked {0} {s}, and {B} beat that by {1}.", "How many {s} did the two of them pick?"),
        ),
    ),
    Family(
        "fewer_total",
        ("+", 0, ("-", 0, 1)),
        ((8, 70), (3, 50)),
        ((70, 300), (20, 200)),
        (
            ("{A} has {0} {s}. {B} has {1} fewer {s} than {A}.", "How many {s} do they have together?"),
            ("{B} sold {1} fewer {s} than {A}. {A} sold {0} {s}.", "How many {s} did they sell in total?"),
            ("{A} painted {0} {s}, but {B} fell short of that by {1}.", "How many {s} did the two of them paint?"),
        ),
    ),
    Family(
        "groups",
        ("*", 0, 1),
        ((2, 12), (2, 30)),
        ((6, 15), (20, 60)),
        (
            ("{A} has {0} {cs} with {1} {s} in each.", "How many {s} does {A} have?"),
            ("There are {0} {cs}. Each {c} holds {1} {s}.", "How many {s} are there in all?"),
            ("{A} packs {1} {s} into every {c} and fills {0} {cs}.", "How many {s} did {A} pack?"),
        ),
    ),
    Family(
        "share",
        ("/", 0, 1),
        ((8, 160), (2, 9)),
        ((150, 600), (4, 12)),
        (
            ("{A} shares {0} {s} equally among {1} friends.", "How many {s} does each friend get?"),
            ("{0} {s} are put into {1} {cs}, the same number in each.", "How many {s} are in one {c}?"),
            ("A group of {1} children split {0} {s} evenly.", "How many {s} does each child receive?"),
        ),
    ),
    Family(
        "have_plus_groups",
        ("+", 0, ("*", 1, 2)),
        ((5, 60), (2, 9), (3, 15)),
        ((60, 300), (5, 12), (12, 40)),
        (
            ("{A} has {0} {s}. {A} buys {1} {cs} of {2} {s} each.", "How many {s} does {A} have now?"),
            ("{B} brings {1} {cs}, each with {2} {s}, to {A}, who already has {0} {s}.", "How many {s} are there now?"),
            ("On top of {0} loose {s}, {A} owns {1} {cs} filled with {2} {s} apiece.", "How many {s} does {A} own?"),
        ),
    ),
    Family(
        "groups_less",
        ("-", ("*", 0, 1), 2),
        ((3, 9), (4, 20), (3, 50)),
        ((6, 12), (15, 50), (20, 300)),
        (
            ("{A} bakes {0} {cs} of {1} {s} each and sells {2} {s}.", "How many {s} are left?"),
            ("There are {1} {s} in each of {0} {cs}. {A} eats {2} {s}.", "How many {s} remain?"),
            ("Out of {0} {cs} holding {1} {s} apiece, {2} {s} went missing.", "How many {s} can {A} still find?"),
        ),
    ),
    Family(
        "change",
        ("-", 0, ("*", 1, 2)),
        ((20, 100), (2, 9), (2, 11)),
        ((100, 500), (5, 12), (8, 35)),
        (
            (
                "{A} pays with {0} dollars for {1} {s} that cost {2} dollars each.",
                "How many dollars does {A} get back?",
            ),
            ("Each of the {s} costs {2} dollars. {A} had {0} dollars and bought {1} {s}.", "How much money is left?"),
            (
                "{A} took {0} dollars to the market and paid {2} dollars apiece for {1} {s}.",
                "What remains in the purse?",
            ),
        ),
    ),
    Family(
        "times_total",
        ("+", 0, ("*", 0, 1)),
        ((3, 40), (2, 9)),
        ((25, 80), (4, 9)),
        (
            ("{A} has {0} {s}. {B} has {1} times as many {s}.", "How many {s} do they have together?"),
            ("{B} read {1} times as many pages as {A}, who read {0} pages.", "How many pages did they read in all?"),
            ("{A} counted {0} {s}, and {B} counted {1} times that.", "How many {s} did the two of them count?"),
        ),
    ),
    Family(
        "join_share",
        ("/", ("+", 0, 1), 2),
        ((5, 80), (5, 60), (2, 8)),
        ((60, 300), (50, 300), (3, 12)),
        (
            (
                "{A} has {0} {s} and {B} has {1} {s}. They put them equally into {2} {cs}.",
                "How many {s} are in each {c}?",
            ),
            ("{2} friends share the {0} {s} of {A} and the {1} {s} of {B} equally.", "How many {s} does each one get?"),
            ("{0} red {s} and {1} blue {s} go into {2} equal heaps.", "How many {s} make a heap?"),
        ),
    ),
    Family(
        "two_products",
        ("+", ("*", 0, 1), ("*", 2, 3)),
        ((2, 9), (2, 12), (2, 9), (2, 12)),
        ((5, 12), (10, 30), (5, 12), (10, 30)),
        (
            (
                "{A} buys {0} {s} at {1} dollars each and {2} books at {3} dollars each.",
                "How many dollars does {A} spend?",
            ),
            (
                "{A} fills {0} {cs} with {1} {s} each. {B} fills {2} {cs} with {3} {s} each.",
                "How many {s} is that in all?",
            ),
            (
                "{0} rows of {1} {s} stand on the left and {2} rows of {3} {s} on the right.",
                "How many {s} does {A} see?",
            ),
        ),
    ),
)

NEW = (
    Family(
        "weeks",
        ("*", ("*", 0, "7"), 1),
        ((2, 25), (2, 8)),
        ((10, 40), (3, 9)),
        (
            ("{A} makes {0} {s} every day.", "How many {s} does {A} make in {1} weeks?"),
            ("A shop sells {0} {s} per day.", "How many {s} does it sell over {1} weeks?"),
        ),
    ),
    Family(
        "dozens",
        ("-", ("*", 0, "12"), 1),
        ((2, 12), (3, 70)),
        ((6, 15), (20, 150)),
        (
            ("{A} buys {0} dozen {s} and uses {1} of them.", "How many {s} are left?"),
            ("From {0} dozen {s}, {1} were broken.", "How many {s} were whole?"),
        ),
    ),
    Family(
        "half_left",
        ("-", ("/", 0, "2"), 1),
        ((12, 120), (2, 40)),
        ((100, 500), (20, 200)),
        (
            ("{A} had {0} {s}. Half of them were sold and {1} more were lost.", "How many {s} remain?"),
            ("{B} took half of the {0} {s} and {A} took {1} others.", "How many {s} were left over?"),
        ),
    ),
    Family(
        "quarter_left",
        ("-", 0, ("/", 0, "4")),
        ((8, 400),),
        ((300, 1200),),
        (
            ("{A} gave a quarter of the {0} {s} to {B}.", "How many {s} does {A} keep?"),
            ("A quarter of {0} {s} were red and the others were blue.", "How many {s} were blue?"),
        ),
    ),
    Family(
        "product_gap",
        ("-", ("*", 0, 1), ("*", 2, 3)),
        ((3, 9), (4, 15), (2, 8), (2, 10)),
        ((6, 12), (12, 40), (3, 9), (5, 25)),
        (
            (
                "{A} fills {0} {cs} with {1} {s} each. {B} fills {2} {cs} with {3} {s} each.",
                "How many more {s} has {A}?",
            ),
            (
                "{A} earns {1} dollars an hour and works {0} hours. {A} then buys {2} {s} for {3} dollars each.",
                "How many dollars are left?",
            ),
        ),
    ),
    Family(
        "sell_share",
        ("/", ("-", ("*", 0, 1), 2), 3),
        ((3, 9), (4, 16), (2, 40), (2, 6)),
        ((6, 12), (10, 30), (10, 150), (3, 9)),
        (
            (
                "{A} has {0} {cs} of {1} {s}. After selling {2} {s}, {A} splits the rest among {3} friends.",
                "How many {s} does each friend get?",
            ),
            (
                "{3} children share what is left when {2} {s} are taken from {0} {cs} with {1} {s} each.",
                "How many {s} does each child get?",
            ),
        ),
    ),
)

FAMILIES = KNOWN + NEW
