"""Tokenised training sets as arrays in a folder: ids (all texts end to end), offsets and prompts (per text)."""

from __future__ import annotations

import json
import uuid
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.tokenize import Example
from harness.hashing import sha256

ALGORITHM = 2  # part of every key: raise it when any token, row or count would come out different
Counts = dict[str, int]


class Examples(Sequence[Example]):
    """Texts of which only `lengths` (tokens per text) are in memory; an example is read on access.

    Text n is ids[offsets[n]:offsets[n + 1]], of which the first prompts[n] tokens are its prompt.
    """

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, prompts: np.ndarray) -> None:
        self._ids, self._offsets, self._prompts = ids, offsets, prompts
        self.lengths = np.diff(offsets)

    def __len__(self) -> int:
        return len(self._prompts)

    @property
    def largest_id(self) -> int:
        return int(self._ids.max(initial=0))

    def __getitem__(self, index: Any) -> Any:  # an example; a list of them for a slice
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        n = range(len(self))[index]  # IndexError past the end, which ends a loop; −1 is the last
        ids = self._ids[self._offsets[n] : self._offsets[n + 1]]
        return Example(tuple(ids.tolist()), int(self._prompts[n]))


def lengths_of(examples: Sequence[Example]) -> np.ndarray:
    """Tokens per example; of a list too."""
    return examples.lengths if isinstance(examples, Examples) else np.array([len(e.ids) for e in examples], np.int64)


def key_of(tokenizer: Any, **decides: Any) -> str:
    """Name of the folder for these examples: by tokenizer and by the settings that decide rows and texts."""
    import tokenizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    whole = uuid.uuid4().hex if backend is None else backend.to_str()  # a slow tokenizer has no text to compare
    identity = [tokenizers.__version__, whole, tokenizer.eos_token_id, tokenizer.bos_token_id]
    return sha256([ALGORITHM, *identity, decides])[:32]


def write_examples(folder: Path, examples: Iterable[Example], counts: Counts) -> None:
    """counts: read after the last example."""
    arrays = {"ids": array("i"), "offsets": array("q", [0]), "prompts": array("i")}
    for example in examples:
        arrays["ids"].extend(example.ids)
        arrays["offsets"].append(len(arrays["ids"]))
        arrays["prompts"].append(example.prompt)
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", np.asarray(values))
    (folder / "counts.json").write_text(json.dumps(counts))


def read_examples(folder: Path) -> tuple[Examples, Counts]:
    ids = np.load(folder / "ids.npy", mmap_mode="r")
    examples = Examples(ids, np.load(folder / "offsets.npy"), np.load(folder / "prompts.npy"))
    return examples, json.loads((folder / "counts.json").read_text())
