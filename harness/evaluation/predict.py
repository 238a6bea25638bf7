"""Greedy answers to a list of questions; texts are kept by chunk, so that a killed evaluation can be resumed."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.config.job import Job
from harness.data.batches import pad_id
from harness.data.tokenize import prompt_ids
from harness.evaluation.generate import eos_ids, generate
from harness.evaluation.predictions import Prediction, lines_of, whole_chunks
from harness.evaluation.progress import Progress
from harness.inputs.rows import Question
from harness.scoring import answer_complete

CHUNK = 4  # evaluation batches per chunk: what a kill can cost, and how many prompts are sorted together


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

    tick is called with a line of progress a few times (none on a terminal, which shows a bar), and with an empty text
    while tokens are decoded; it may raise. shuffled: a seed for a random order, so with other neighbours and padding.
    """
    eos, pad = eos_ids(model, tokenizer), pad_id(tokenizer)
    prompts = prompt_ids(job.prompt, [q.text for q in questions], tokenizer)
    chunks = _chunks([len(p) for p in prompts], CHUNK * job.eval_batch_size, shuffled)
    compact = job.quantization != "8bit"
    known = whole_chunks(file, split, chunks)
    progress = Progress(split, len(questions), len(known), tick)

    def complete(tokens: list[int]) -> bool:
        tick("")
        return answer_complete(_text(tokenizer, tokens))

    with progress.bar:
        for chunk in [c for c in chunks if c[0] not in known]:
            # Shortest first: a row in work has grown when a longer prompt joins it, and less padding is attended to.
            turns = chunk[::-1] if compact else chunk
            answers = generate(
                model,
                [prompts[n] for n in turns],
                eos=eos,
                pad=pad,
                batch_size=job.eval_batch_size,
                max_new_tokens=job.max_new_tokens,
                complete=complete,
                compact=compact,
                graphs=job.eval_graphs,
                device=job.device,
                answered=progress.answered,
            )
            texts = [_text(tokenizer, a.tokens) for a in answers]
            fresh = [Prediction(split, n, t, a.finished) for n, t, a in zip(turns, texts, answers, strict=True)]
            with open(file, "a", encoding="utf-8") as out:
                out.write(lines_of(fresh))
            known |= {p.index: p for p in fresh}
            progress.kept(len(known))
    return [known[n] for n in range(len(questions))]


def _text(tokenizer: Any, tokens: list[int]) -> str:
    """The raw text: some tokenizers would otherwise tidy the spaces in it, and `1 , 000` is not `1, 000`."""
    return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _chunks(lengths: list[int], size: int, shuffled: int | None) -> list[list[int]]:
    """Places of the questions, by length or in a seeded random order. They depend on the questions alone."""
    order = sorted(range(len(lengths)), key=lambda n: (-lengths[n], n))
    if shuffled is not None:
        random.Random(f"evaluation {shuffled}").shuffle(order)
    return [order[k : k + size] for k in range(0, len(order), size)]
