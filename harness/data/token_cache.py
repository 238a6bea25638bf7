"""Tokenised training sets on disk: written as they come, checked when opened, memory-mapped when used.

A folder `<key>/` holds `ids.npy` (int32, all texts end to end), `offsets.npy` (int64, text n is ids[offsets[n]:
offsets[n+1]]), `prompts.npy` (int32, prompt tokens of each text) and `meta.json` (counts, and SHA-256 of the files).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
from filelock import FileLock

from harness.data.tokenize import Example

ALGORITHM = 2  # part of every key: raise it when any token, row or count would come out different
ARRAYS = ("ids", "offsets", "prompts")
Counts = dict[str, int]


class Examples(Sequence[Example]):
    """Texts of which only `lengths` (tokens per text) are in memory; an example is read on access."""

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, prompts: np.ndarray) -> None:
        self._ids, self._offsets, self._prompts = ids, offsets, prompts
        self.lengths = np.diff(offsets)

    def __len__(self) -> int:
        return len(self._prompts)

    @property
    def largest_id(self) -> int:
        return int(self._ids.max(initial=0))

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
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

    identity = [tokenizers.__version__, _backend_text(tokenizer), tokenizer.eos_token_id, tokenizer.bos_token_id]
    text = json.dumps([ALGORITHM, *identity, decides], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _backend_text(tokenizer: Any) -> str:
    """The whole tokenizer as JSON; one without a fast backend is never the same twice, and is not cached."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend.to_str() if backend is not None else uuid.uuid4().hex


class Writer:
    """Appends examples to a folder; the id array goes to disk as it comes, whatever its size."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.offsets, self.prompts = folder, array("q", [0]), array("i")

    def __enter__(self) -> Writer:
        self._file = open(self.folder / "ids.npy", "wb")
        self._header(0)
        return self

    def add(self, example: Example) -> None:
        self._file.write(array("i", example.ids).tobytes())
        self.offsets.append(self.offsets[-1] + len(example.ids))
        self.prompts.append(example.prompt)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._file.seek(0)
        self._header(self.offsets[-1])
        self._file.close()

    def _header(self, length: int) -> None:
        """NumPy pads headers so that one with a larger length takes the same room."""
        header = {"descr": "<i4", "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def finish(self, counts: Counts) -> None:
        np.save(self.folder / "offsets.npy", np.array(self.offsets, "<i8"))
        np.save(self.folder / "prompts.npy", np.array(self.prompts, "<i4"))
        digests = {name: _sha256(self.folder / f"{name}.npy") for name in ARRAYS}
        meta = {"counts": counts, "sha256": digests}
        (self.folder / "meta.json").write_text(json.dumps(meta | {"check": _check(meta)}))


def cached(folder: Path, key: str, build: Callable[[Writer], Counts]) -> tuple[Examples, Counts]:
    """The contents of `folder`/`key`, written by `build` where they are missing: once, also across processes."""
    stored = _read(folder / key)
    if stored is None:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{key}.lock"):  # released when its process is killed
            stored = _read(folder / key) or _write(folder / key, build)  # another process may have written it meanwhile
    return stored


def _write(place: Path, build: Callable[[Writer], Counts]) -> tuple[Examples, Counts]:
    part = place.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)  # a killed process's
    part.mkdir()
    try:
        writer = Writer(part)
        with writer:
            counts = build(writer)
        writer.finish(counts)
        shutil.rmtree(place, ignore_errors=True)  # damaged, or it would have been read
        part.rename(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    stored = _read(place)
    if stored is None:
        raise OSError(f"{place}: what was just written cannot be read back")
    return stored


def _read(place: Path) -> tuple[Examples, Counts] | None:
    """The folder's examples and counts; None where it is absent or damaged in any bit: both mean "write it"."""
    try:
        meta = json.loads((place / "meta.json").read_text())
        whole = meta.pop("check") == _check(meta)
        if not whole or any(_sha256(place / f"{name}.npy") != meta["sha256"][name] for name in ARRAYS):
            return None
        ids = np.load(place / "ids.npy", mmap_mode="r")
        return Examples(ids, np.load(place / "offsets.npy"), np.load(place / "prompts.npy")), meta["counts"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _check(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
