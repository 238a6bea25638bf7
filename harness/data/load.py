"""The data of a run: training examples, and validation and test questions that training never sees."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from harness.config.job import Job
from harness.data.held_out import hold_out
from harness.data.token_cache import Counts
from harness.data.tokenize import Example
from harness.data.training_set import COUNTED, keep, training_set
from harness.inputs.fingerprints import Fingerprints
from harness.inputs.rows import Question, read_questions, stream_rows

log = logging.getLogger("harness")
FIRST = 100  # training rows that are looked at first


@dataclass(frozen=True)
class Data:
    train: Sequence[Example]
    valid: list[Question]
    test: list[Question]
    counts: Counts


def load_data(job: Job, tokenizer: Any, prints: Fingerprints) -> Data:
    """All data of a run; prints one line about it. Raises BadInput for a missing, empty or broken file.

    Successive jobs of a process share what they have in common.
    """
    questions, test = _questions(job, "data.questions", prints), _questions(job, "data.test", prints)
    if job.trains:  # a wrong file or column is named before anything is computed from the others
        for _ in islice(stream_rows(job.train_source, "data.train", needed=("query", "response")), FIRST):
            pass
    valid, held_out = hold_out(questions, test, job.valid_size)
    train: Sequence[Example] = []
    counts = dict.fromkeys(COUNTED, 0)
    if job.trains:
        train, counts = training_set(job, tokenizer, held_out, prints["data.train"])
    counts = counts | {"valid": len(valid), "test": len(test), "valid_in_test": held_out.valid_in_test}
    _say(counts, trains=job.trains)
    return Data(train, valid[: job.eval_limit], test[: job.eval_limit], counts)


def _questions(job: Job, where: str, prints: Fingerprints) -> list[Question]:
    return keep(prints[where].content, lambda: read_questions(job.sources[where], where))


def split_questions(job: Job, split: str) -> list[Question]:
    """The questions of `test` or `valid` that a run of this job answers, in its order."""
    test = read_questions(job.test_source, "data.test")
    if split == "test":
        return test[: job.eval_limit]
    questions = read_questions(job.question_source, "data.questions")
    return hold_out(questions, test, job.valid_size)[0][: job.eval_limit]


_said: set[str] = set()


def _say(counts: Counts, *, trains: bool) -> None:
    """One line about the data, and warnings about checks that were impossible; once per process."""
    n = {name: f"{count:,}" for name, count in counts.items()}
    line = f"data: {n['valid']} validation and {n['test']} test questions"
    if counts["valid_in_test"]:
        line += f" ({n['valid_in_test']} test questions among data.questions were left out)"
    if trains:
        line += f"; {n['train_rows']} training rows, {n['removed_for_validation']} removed for validation, "
        line += f"{n['removed_for_test']} for test, {n['over_long']} over-long, {n['unfit']} unfit, "
        line += f"{n['train_examples']} left"
        line += f"; {n['valid_unmatched']} validation questions match no row" if counts["valid_unmatched"] else ""
    if line in _said:
        return
    _said.add(line)
    print(line, flush=True)
    if counts["without_original"]:
        text = "%s of %s rows have no original_question, so augmented copies of validation and test questions cannot "
        text += "be found among them; only identical questions were removed, %s of them for validation"
        log.warning(f"data.train: {text}", n["without_original"], n["train_rows"], n["removed_identical"])
    elif trains and counts["valid_unmatched"] == counts["valid"]:
        text = "no row comes from any of the %s validation questions; if the rows were made from such questions, "
        text += "data.train.columns.original_question names the wrong column"
        log.warning(f"data.train: {text}", n["valid"])
