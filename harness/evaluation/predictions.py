"""TODO harness.evaluation.predictions"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from adapters._bases import atomic_file


@dataclass(frozen=True)
class Prediction:
    """A continuation as it was decoded, without EOS; finished: it ended by itself within the token limit."""

    split: str
    index: int  # place of the question in its file
    text: str
    finished: bool


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
