"""predictions.jsonl: the texts of an evaluation, kept by whole chunks so that a killed one can be resumed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from harness.files import write_text


@dataclass(frozen=True)
class Prediction:
    """A continuation as it was decoded, without EOS; finished: it ended by itself within the token limit."""

    split: str
    index: int  # place of the question in its file
    text: str
    finished: bool


def whole_chunks(file: Path, split: str, chunks: list[list[int]]) -> dict[int, Prediction]:
    """A split's predictions by index. A chunk that a kill cut short is dropped, from the file too.

    In bf16 and 8-bit a text may depend on its batch, so a chunk is always generated as a whole.
    """
    rows = {(p.split, p.index): p for p in read_predictions(file)}
    whole = {n for chunk in chunks if all((split, n) in rows for n in chunk) for n in chunk}
    kept = [p for p in rows.values() if p.split != split or p.index in whole]
    text = lines_of(kept)
    if file.exists() and file.read_bytes() != text.encode():
        write_text(file, text)
    return {p.index: p for p in kept if p.split == split}


def lines_of(predictions: list[Prediction]) -> str:
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
