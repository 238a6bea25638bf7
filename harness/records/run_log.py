"""run.log: what a run says, on the terminal and with the time in its folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path


class RunLog:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def say(self, text: str) -> None:
        """On the terminal's stderr and in the file."""
        print(f"{self.folder.name}: {text}", file=sys.stderr, flush=True)
        self.write(text)

    def ticker(self, check: Callable[[], None]) -> Callable[[str], None]:
        """A function to call while texts are decoded: `check` may raise; a text that is not empty is said."""

        def tick(text: str) -> None:
            check()
            if text:
                self.say(text)

        return tick

    def write(self, text: str) -> None:
        """In the file only."""
        with open(self.folder / "run.log", "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}\n")
