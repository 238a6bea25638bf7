"""Rows from files or the hub, clean validation, prompts with label masks, and length-bucketed batches."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness.bad_input import refuse
from harness.job import Job
from harness.sources import Question, Row, read_questions, read_rows

log = logging.getLogger("harness")


@dataclass(frozen=True)
class Example:
    """One tokenised training text; the loss is on `ids[prompt:]` (response and EOS) only."""

    ids: tuple[int, ...]
    prompt: int  # number of prompt tokens


@dataclass(frozen=True)
class Data:
    train: list[Example]
    valid: list[Question]
    test: list[Question]
    counts: dict[str, int]  # rows read, held out, dropped as over-long, left


def load_data(job: Job, tokenizer: Any) -> Data:
    """Everything a run reads. Raises BadInput for a file that is missing, empty or broken."""
    rows = read_rows(job.train_source, "data.train", needed=("query", "response")) if job.trains else []
    questions = read_questions(job.question_source, "data.questions")
    test = read_questions(job.test_source, "data.test")
    valid, held_out = hold_out(questions, job.valid_size)
    clean = remove_held_out(rows, held_out) if rows else []
    examples = [e for e in tokenize(clean, job.prompt, tokenizer) if len(e.ids) <= job.max_length]
    counts = {
        "train_rows": len(rows),
        "removed_for_validation": len(rows) - len(clean),
        "over_long": len(clean) - len(examples),
        "train_examples": len(examples),
        "valid": len(valid),
        "test": len(test),
    }
    if job.trains and not examples:
        raise refuse(
            "data.train",
            "no example left after validation and length limits",
            got=counts,
            remedy="Raise benchmark.max_length.",
        )
    limit = job.eval_limit
    return Data(examples, valid[:limit], test[:limit], counts)


# -- clean validation --------------------------------------------------------------------------------------------------
def normalised(question: str) -> str:
    """Case, white space and punctuation folded: augmented copies differ in these."""
    return re.sub(r"[^\w]+", " ", question.casefold()).strip()


def hold_out(questions: list[Question], size: int) -> tuple[list[Question], set[str]]:
    """`size` questions for validation, chosen by the hash of their text: the same ones for every seed and machine."""
    if size >= len(questions):
        raise refuse(
            "benchmark.valid_size", "larger than the questions there are", got=size, expected=f"< {len(questions)}"
        )
    chosen = sorted(questions, key=lambda q: hashlib.sha256(normalised(q.text).encode()).digest())[:size]
    return chosen, {normalised(q.text) for q in chosen}


def remove_held_out(rows: list[Row], held_out: set[str]) -> list[Row]:
    """Training rows that do not come from a held-out question (by `original_question`)."""
    if not any("original_question" in row for row in rows):
        log.warning(
            "the training data has no original_question column: rows made from validation questions cannot be found"
        )
    return [r for r in rows if normalised(r.get("original_question", r["query"])) not in held_out]


# -- tokens ------------------------------------------------------------------------------------------------------------
def prompt_of(template: str, query: str) -> str:
    return template.replace("{query}", query)  # str.format would trip over other braces, as in \\boxed{}


def tokenize(rows: list[Row], template: str, tokenizer: Any) -> list[Example]:
    """prompt + " " + response + EOS. Raises BadInput where the prompt's tokens are no prefix of the text's."""
    prompts = [prompt_of(template, r["query"]) for r in rows]
    texts = [f"{p} {r['response'].strip()}" for p, r in zip(prompts, rows, strict=True)]
    if not rows:
        return []
    prompt_ids = tokenizer(prompts)["input_ids"]
    examples = []
    for text_ids, start in zip(tokenizer(texts)["input_ids"], prompt_ids, strict=True):
        if text_ids[: len(start)] != start:
            raise refuse(
                "benchmark.prompt",
                "its tokens are no prefix of the training text's",
                got=template,
                remedy="End it so that a response after a space begins a new token, as after a colon.",
            )
        if text_ids[-1] != tokenizer.eos_token_id:
            text_ids = [*text_ids, tokenizer.eos_token_id]
        examples.append(Example(tuple(text_ids), len(start)))
    return examples


def batches(examples: list[Example], *, steps: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Indices of `steps` batches: a seeded permutation per epoch, batches of similar length, in seeded order.

    Depends on nothing but the lengths and the arguments, so every variant sees the same samples in the same order.
    """
    rng = random.Random(f"order {seed}")
    window = 32 * batch_size  # lengths are sorted within it: large enough to pad little, small enough to stay random
    order: list[int] = []
    ready: list[list[int]] = []
    for _ in range(steps):
        if not ready:
            while len(order) < window:
                order += rng.sample(range(len(examples)), len(examples))
            head, order = order[:window], order[window:]
            head.sort(key=lambda n: len(examples[n].ids))
            ready = [head[k : k + batch_size] for k in range(0, window, batch_size)]
            rng.shuffle(ready)
        yield ready.pop()


def calibration_batches(examples: list[Example], job: Job, pad: int) -> list[dict[str, Any]]:
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


def sha256(value: Any) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def questions_hash(questions: list[Question]) -> str:
    return sha256([[q.text, q.reference] for q in questions])
