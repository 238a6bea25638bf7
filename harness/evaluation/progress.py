"""How far an evaluation is: a bar with the time left on a terminal, five lines a split elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

LINES = 5


class Progress:
    """Of one split. known: questions that an earlier, killed evaluation answered."""

    def __init__(self, split: str, total: int, known: int, say: Callable[[str], None]) -> None:
        self.split, self.total, self.known, self.say, self.start = split, total, known, say, time.perf_counter()
        self.said = known
        self.bar = tqdm(
            desc=split, total=total, initial=known, unit="question", disable=None, file=sys.stderr, dynamic_ncols=True
        )

    def answered(self, count: int) -> None:
        """So many more questions are answered; nothing is on disk yet."""
        self.bar.update(count)

    def kept(self, count: int) -> None:
        """So many questions are on disk by now."""
        if not self.bar.disable or (count - self.said < self.total / LINES and count < self.total):
            return
        self.said, seconds = count, time.perf_counter() - self.start
        left = (self.total - count) * seconds / (count - self.known)
        self.say(f"{self.split} {count}/{self.total} questions, {seconds:.0f} s, {left:.0f} s left")
