"""Progress of an evaluation: five lines a split without a terminal, a bar with the time left on one."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.evaluation import progress as module
from harness.evaluation.predict import predict
from harness.evaluation.progress import LINES, Progress
from harness.inputs.rows import Question


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_are_few_and_foretell_the_end(monkeypatch: Any) -> None:
    """At a steady pace every line's seconds and seconds left add up to the whole, also after a resume."""
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    for known in (0, 40):
        said: list[str] = []
        progress = Progress("test", 200, known, said.append)
        start = clock[0]
        for count in range(known + 4, 201, 4):
            clock[0] = start + (count - known) * 0.5
            progress.kept(count)
        assert LINES - 1 <= len(said) <= LINES
        assert said[-1] == f"test 200/200 questions, {(200 - known) / 2:.0f} s, 0 s left"
        for line in said:
            words = line.split()
            assert float(words[3]) + float(words[5]) == pytest.approx((200 - known) / 2)


def test_a_terminal_shows_a_bar_of_all_answers(
    model: Any, tokenizer: Any, small_job: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """It moves within a chunk, begins where a killed evaluation ended, and no line is said."""
    job, file = small_job("eval.batch_size=2", "eval.max_new_tokens=4"), tmp_path / "p.jsonl"
    questions = [Question(f"How many? {n}", str(n)) for n in range(20)]
    seen: list[int] = []
    true = Progress.answered

    def answered(self: Any, count: int) -> None:
        true(self, count)
        seen.append(self.bar.n)

    monkeypatch.setattr(module.Progress, "answered", answered)
    terminal, said = Terminal(), []
    monkeypatch.setattr(sys, "stderr", terminal)
    predict(model, tokenizer, questions, job, "test", file, said.append)
    assert seen[-1] == 20
    assert seen == sorted(seen)
    assert len(seen) >= 8  # chunks hold 8 questions
    assert not any(said)
    assert "20/20" in terminal.getvalue()
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:8]))
    seen.clear()
    predict(model, tokenizer, questions, job, "test", file, said.append)
    assert seen[0] > 8
    assert seen[-1] == 20
