"""What a run trains on and is asked: clean validation, tokenised training rows, length-bucketed batches."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.bad_input import refuse
from harness.identity import sha256, source_identity
from harness.job import Job
from harness.preparation import COUNTED, keep, normalised, training_set
from harness.sources import Question, read_questions
from harness.token_cache import Counts, lengths_of
from harness.tokens import Example

log = logging.getLogger("harness")


@dataclass(frozen=True)
class Data:
    train: Sequence[Example]
    valid: list[Question]
    test: list[Question]
    counts: Counts


def load_data(job: Job, tokenizer: Any) -> Data:
    """Everything a run reads, and one line about it. Raises BadInput for a file that is missing, empty or broken.

    Successive jobs of a process share what they have in common.
    """
    questions, test = _questions(job, "data.questions"), _questions(job, "data.test")
    valid, held_out = hold_out(questions, job.valid_size)
    train: Sequence[Example] = []
    counts = dict.fromkeys(COUNTED, 0)
    if job.trains:
        train, counts = training_set(job, tokenizer, held_out)
    counts = counts | {"valid": len(valid), "test": len(test)}
    _say(counts, trains=job.trains)
    limit = job.eval_limit
    return Data(train, valid[:limit], test[:limit], counts)


def hold_out(questions: list[Question], size: int) -> tuple[list[Question], set[str]]:
    """`size` questions for validation, chosen by the hash of their text: the same ones for every seed and machine."""
    if size >= len(questions):
        raise refuse(
            "benchmark.valid_size", "larger than the questions there are", got=size, expected=f"< {len(questions)}"
        )
    chosen = sorted(questions, key=lambda q: hashlib.sha256(normalised(q.text).encode()).digest())[:size]
    return chosen, {normalised(q.text) for q in chosen}


def _questions(job: Job, where: str) -> list[Question]:

    source = job.test_source if where == "data.test" else job.question_source
    # For as long as a process lives a branch of a hub data set counts as the same: all its jobs are asked alike.
    return keep(source_identity(source, job.cache_dir, where), lambda: read_questions(source, where))


_said: set[str] = set()


def _say(counts: Counts, *, trains: bool) -> None:
    """One line on what was read, and a warning on what could not be checked; once per process."""
    n = {name: f"{count:,}" for name, count in counts.items()}
    line = f"data: {n['valid']} validation and {n['test']} test questions"
    if trains:
        line += f"; {n['train_rows']} training rows, {n['removed_for_validation']} removed for validation, "
        line += f"{n['over_long']} over-long, {n['unfit']} unfit, {n['train_examples']} left"
    if line in _said:
        return
    _said.add(line)
    print(line, flush=True)
    if counts["without_original"]:
        log.warning(
            "data.train: %s of %s rows have no original_question: those that are augmented copies of validation "
            "questions cannot be found; only identical questions were removed, %s of them",
            *(n[name] for name in ("without_original", "train_rows", "removed_identical")),
        )


# -- batches -----------------------------------------------------------------------------------------------------------
def batches(examples: Sequence[Example], *, steps: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Indices of `steps` batches: a seeded permutation per epoch, batches of similar length, in seeded order.

    Depends on nothing but the lengths and the arguments, so every variant sees the same samples in the same order.
    """
    rng, lengths = random.Random(f"order {seed}"), lengths_of(examples)
    window = 32 * batch_size  # lengths are sorted within it: large enough to pad little, small enough to stay random
    order: list[int] = []
    ready: list[list[int]] = []
    for _ in range(steps):
        if not ready:
            while len(order) < window:
                order += rng.sample(range(len(examples)), len(examples))
            head, order = order[:window], order[window:]
            head.sort(key=lengths.__getitem__)
            ready = [head[k : k + batch_size] for k in range(0, window, batch_size)]
            rng.shuffle(ready)
        yield ready.pop()


def calibration_batches(examples: Sequence[Example], job: Job, pad: int) -> list[dict[str, Any]]:
    """Training examples, with masks, for variants that read the second moments of their inputs; empty for the others.

    The same examples for every seed, so that seeds share their bases.
    """
    import torch

    chosen = random.Random("calibration").sample(examples, min(job.calibration_examples, len(examples)))
    batches = []
    for k in range(0, len(chosen), job.batch_size):
        part = chosen[k : k + job.batch_size]
        width = max(len(e.ids) for e in part)
        ids = torch.tensor([[*e.ids, *[pad] * (width - len(e.ids))] for e in part], device=job.device)
        mask = torch.tensor([[1] * len(e.ids) + [0] * (width - len(e.ids)) for e in part], device=job.device)
        batches.append({"input_ids": ids, "attention_mask": mask})
    return batches


def pad_id(tokenizer: Any) -> int:
    """Any id will do, since padding is masked by position; models without a pad token use their EOS."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id


def questions_hash(questions: list[Question]) -> str:
    return sha256([[q.text, q.reference] for q in questions])
