"""Greedy answers to a list of questions, scored; texts are kept by chunk, so that a killed evaluation goes on."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters._bases import atomic_file
from harness.data import pad_id, questions_hash
from harness.generation import generate
from harness.job import Job
from harness.scoring import SCORER_VERSION, Score, answer_complete, score
from harness.sources import Question
from harness.tokens import prompt_ids

CHUNK = 4  # evaluation batches per chunk: what a kill can cost, and how many prompts are sorted together


@dataclass(frozen=True)
class Prediction:
    """A continuation as it was decoded, without EOS; finished: it ended by itself within the token limit."""

    split: str
    index: int  # place of the question in its file
    text: str
    finished: bool


def eos_ids(model: Any, tokenizer: Any) -> set[int]:
    """Every id that ends a text: the tokenizer's, and all of the model's generation_config and config.

    Training texts end with the tokenizer's; instruction-tuned bases end their turns with another one.
    """
    configs = [getattr(model, "generation_config", None), getattr(model, "config", None)]
    found: list[Any] = [tokenizer.eos_token_id]
    for configured in (getattr(c, "eos_token_id", None) for c in configs):
        found += configured if isinstance(configured, list) else [configured]
    return {int(i) for i in found if i is not None}


def predict(
    model: Any,
    tokenizer: Any,
    questions: list[Question],
    job: Job,
    split: str,
    file: Path,
    tick: Callable[[str], None],
    *,
    shuffled: int | None = None,
) -> list[Prediction]:
    """Predictions for all questions; whole chunks already in `file` (JSON lines) are kept, new ones appended.

    tick is called with a progress text after every chunk, and with an empty one at every decoded token; it may raise.
    shuffled: a seed; questions are then answered in random order, so with other neighbours and other padding.
    """
    eos, pad = eos_ids(model, tokenizer), pad_id(tokenizer)
    prompts = prompt_ids(job.prompt, [q.text for q in questions], tokenizer)
    chunks = _chunks([len(p) for p in prompts], CHUNK * job.eval_batch_size, shuffled)
    known = _whole_chunks(file, split, chunks)
    start = time.perf_counter()

    def complete(tokens: list[int]) -> bool:
        tick("")
        return answer_complete(_text(tokenizer, tokens))

    for chunk in chunks:
        if chunk[0] in known:
            continue
        answers = generate(
            model,
            [prompts[n] for n in chunk],
            eos=eos,
            pad=pad,
            batch_size=job.eval_batch_size,
            max_new_tokens=job.max_new_tokens,
            complete=complete,
            compact=job.quantization != "8bit",
            device=job.device,
        )
        texts = [_text(tokenizer, a.tokens) for a in answers]
        fresh = [Prediction(split, n, t, a.finished) for n, t, a in zip(chunk, texts, answers, strict=True)]
        with open(file, "a", encoding="utf-8") as out:
            out.write(_lines(fresh))
        known |= {p.index: p for p in fresh}
        tick(f"{split} {len(known)}/{len(questions)} questions, {time.perf_counter() - start:.0f} s")
    return [known[n] for n in range(len(questions))]


def _text(tokenizer: Any, tokens: list[int]) -> str:
    """The raw text: some tokenizers would otherwise tidy the spaces in it, and `1 , 000` is not `1, 000`."""
    return tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _chunks(lengths: list[int], size: int, shuffled: int | None) -> list[list[int]]:
    """Places of the questions, by length or in a seeded random order. They depend on the questions alone."""
    order = sorted(range(len(lengths)), key=lambda n: (-lengths[n], n))
    if shuffled is not None:
        random.Random(f"evaluation {shuffled}").shuffle(order)
    return [order[k : k + size] for k in range(0, len(order), size)]


# -- predictions.jsonl -------------------------------------------------------------------------------------------------
def _whole_chunks(file: Path, split: str, chunks: list[list[int]]) -> dict[int, Prediction]:
    """A split's predictions by index; of a chunk that a kill cut short nothing is kept, in the file neither.

    In bf16 and 8-bit a text may depend on its batch, so a chunk is always generated as a whole.
    """
    rows = {(p.split, p.index): p for p in read_predictions(file)}
    whole = {n for chunk in chunks if all((split, n) in rows for n in chunk) for n in chunk}
    kept = [p for p in rows.values() if p.split != split or p.index in whole]
    text = _lines(kept).encode()
    if file.exists() and file.read_bytes() != text:
        with atomic_file(file) as temporary:
            temporary.write_bytes(text)
    return {p.index: p for p in kept if p.split == split}


def _lines(predictions: list[Prediction]) -> str:
    return "".join(json.dumps(vars(p), ensure_ascii=False) + "\n" for p in predictions)


def read_predictions(file: Path) -> list[Prediction]:
    """Predictions of a JSON-lines file; a line that a kill cut short is left out."""
    if not file.exists():
        return []
    rows = []
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            rows.append(Prediction(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):
            continue
    return rows


def metrics(predictions: list[Prediction], questions: list[Question]) -> dict[str, Any]:
    """Accuracy (by marker), flexible accuracy, counts, and which questions were right as hexadecimal bits.

    correct_bits: question i in file order is bit i from the left; padded with zeros on the right to whole digits.
    """
    scores: list[Score] = [
        score(p.text, q.reference, finished=p.finished) for p, q in zip(predictions, questions, strict=True)
    ]
    total, correct = len(scores), sum(s.correct for s in scores)
    return {
        "accuracy": correct / total,
        "correct": correct,
        "total": total,
        "flexible_accuracy": sum(s.flexible_correct for s in scores) / total,
        "truncated": sum(s.truncated for s in scores),
        "no_answer": sum(s.no_answer for s in scores),
        "questions_hash": questions_hash(questions),
        "correct_bits": to_bits([s.correct for s in scores]),
        "scorer_version": SCORER_VERSION,
    }


def to_bits(correct: list[bool]) -> str:
    bits = "".join("1" if c else "0" for c in correct)
    bits += "0" * (-len(bits) % 4)
    return "".join(f"{int(bits[k : k + 4], 2):x}" for k in range(0, len(bits), 4))


def from_bits(digits: str, total: int) -> list[bool]:
    """Inverse of `to_bits`."""
    return [b == "1" for b in "".join(f"{int(d, 16):04b}" for d in digits)][:total]
