"""Rows from files or the hub, clean validation, prompts with label masks, and length-bucketed batches."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.bad_input import refuse
from harness.job import Job, Source
from harness.schema import ROOT
from harness.scoring import reference_answer

log = logging.getLogger("harness")
Row = dict[str, str]


@dataclass(frozen=True)
class Example:
    """One tokenised training text; the loss is on `ids[prompt:]` (response and EOS) only."""

    ids: tuple[int, ...]
    prompt: int  # number of prompt tokens


@dataclass(frozen=True)
class Question:
    text: str
    reference: str


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


# -- rows --------------------------------------------------------------------------------------------------------------
def read_rows(source: Source, where: str, *, needed: tuple[str, ...]) -> list[Row]:
    """Rows with our column names. Raises BadInput, naming file and line, for anything but non-empty strings."""
    if source.path is not None:
        place, raw = source.path, _read_local(source.path, where)
    elif source.hub is not None:
        place, raw = source.hub, _read_hub(source, where)
    else:
        raise refuse(where, "neither path nor hub is given", remedy=f"Set {where}.path=<file>.")
    if unmapped := [name for name in needed if name not in source.columns]:
        raise refuse(f"{where}.columns", f"no column is given for {unmapped[0]}", expected=f"{unmapped[0]}: <name>")
    rows: list[Row] = []
    for number, row in enumerate(raw, start=1):
        rows.append(_checked_row(row, f"{place}:{number}", source.columns, needed))
    if not rows:
        raise refuse(where, "no rows", got=place, expected="at least one row")
    return rows


def _checked_row(row: Any, place: str, columns: dict[str, str], needed: tuple[str, ...]) -> Row:
    if not isinstance(row, dict):
        raise refuse(place, "not a row", got=row, expected="an object with named columns")
    out: Row = {}
    for ours, theirs in columns.items():
        value = row.get(theirs)
        if ours in needed and (not isinstance(value, str) or not value.strip()):
            have = ", ".join(sorted(map(str, row))) or "nothing"
            raise refuse(
                place,
                f"column {theirs!r} is missing or empty",
                got=value,
                expected="a non-empty string",
                remedy=f"The row has {have}; map columns with data.*.columns.{ours}=<name>.",
            )
        if isinstance(value, str):
            out[ours] = value
    return out


def _read_local(path: str, where: str) -> list[Any]:
    if path.startswith("generated:"):
        return read_generated(path.removeprefix("generated:"), where)
    file = Path(path) if Path(path).is_absolute() or Path(path).exists() else ROOT / path
    if not file.is_file():
        raise refuse(f"{where}.path", "no such file", got=path, expected="a JSON, JSONL or parquet file")
    if file.suffix == ".parquet":
        import pyarrow.parquet as parquet

        try:
            return parquet.read_table(file).to_pylist()
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise refuse(f"{where}.path", f"not a parquet file ({reason})", got=path) from None
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise refuse(f"{where}.path", f"not UTF-8 text ({error.reason} at byte {error.start})", got=path) from None
    if text.lstrip().startswith("["):
        return _parse_json(text, path, 1)
    lines = text.removesuffix("\n").split("\n")
    return [_parse_json(line, path, n) for n, line in enumerate(lines, start=1)] if text else []


def _parse_json(text: str, path: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        shown = text[:60]
        raise refuse(
            f"{path}:{line}", f"not JSON ({error.msg})", got=shown, expected="one JSON object per line"
        ) from None


def read_generated(split: str, where: str) -> list[Any]:
    from harness.tiny import problems

    splits = {"train": problems.train_rows, "questions": problems.question_rows, "test": problems.test_rows}
    if split not in splits:
        raise refuse(f"{where}.path", "unknown generated split", got=split, expected=f"one of {', '.join(splits)}")
    return list(splits[split]())


def _read_hub(source: Source, where: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(source.hub, source.subset, split=source.split, revision=source.revision)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise refuse(
            where,
            f"cannot load the data set from the hub ({reason})",
            got=source.hub,
            remedy=f"Check the network and HF_HUB_OFFLINE, or give a file: {where}.path=<file>.",
        ) from None


def read_questions(source: Source, where: str) -> list[Question]:
    """Questions whose reference answers parse; raises BadInput naming the row otherwise."""
    rows = read_rows(source, where, needed=("question", "answer"))
    for number, row in enumerate(rows, start=1):
        try:
            reference_answer(row["answer"])
        except ValueError as error:
            raise refuse(
                f"{source.path or source.hub}:{number}", f"reference answer does not parse ({error})"
            ) from None
    return [Question(r["question"], r["answer"]) for r in rows]


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
