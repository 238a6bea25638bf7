"""Greedy answers to a list of questions, scored; texts are kept by chunk, so that a killed evaluation goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """Every id that ends a text: the tokenizer's, and all of the model's generation_config."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return {int(i) for i in [tokenizer.eos_token_id, *listed] if i is not None}


def predict(
    model: Any,
    tokenizer: Any,
    questions: list[Question],
    job: Job,
    split: str,
    file: Path,
    tick: Callable[[str], None],
) -> list[Prediction]:
    """Predictions for all questions; those already in `file` (JSON lines) are kept, new ones appended by chunk.

    tick is called with a progress text after every chunk, and with an empty one at every decoded token; it may raise.
    """
    _mend(file)
    known = {p.index: p for p in read_predictions(file) if p.split == split}
    size = CHUNK * job.eval_batch_size
    eos = eos_ids(model, tokenizer)
    pad = pad_id(tokenizer)
    # Chunks hold prompts of similar length; which prompt is in which chunk depends on the questions alone.
    prompts = prompt_ids(job.prompt, [q.text for q in questions], tokenizer)
    order = sorted(range(len(questions)), key=lambda n: (-len(prompts[n]), n))
    start = time.perf_counter()

    def complete(tokens: list[int]) -> bool:
        tick("")
        return answer_complete(tokenizer.decode(tokens))

    for k in range(0, len(order), size):
        chunk = order[k : k + size]
        if all(n in known for n in chunk):
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
        texts = tokenizer.batch_decode([a.tokens for a in answers], skip_special_tokens=True)
        fresh = [Prediction(split, n, t, a.finished) for n, t, a in zip(chunk, texts, answers, strict=True)]
        with open(file, "a", encoding="utf-8") as out:
            out.write("".join(json.dumps(vars(p), ensure_ascii=False) + "\n" for p in fresh))
        known |= {p.index: p for p in fresh}
        tick(f"{split} {len(known)}/{len(questions)} questions, {time.perf_counter() - start:.0f} s")
    return [known[n] for n in range(len(questions))]


def _mend(file: Path) -> None:
    """Removes a last line that a kill cut short, onto which the next one would be written."""
    if file.exists():
        whole = file.read_bytes()
        if not whole.endswith(b"\n"):
            file.write_bytes(whole[: whole.rfind(b"\n") + 1])


def read_predictions(file: Path) -> list[Prediction]:
    """Predictions of a JSON-lines file; a last line cut short by a kill is left out."""
    if not file.exists():
        return []
    rows = []
    for line in file.read_text(encoding="utf-8").split("\n"):
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
