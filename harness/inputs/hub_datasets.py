"""Rows of a data set on the Hugging Face hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.config.schema import Source
from harness.errors import BadInput, reason_of, refuse
from harness.inputs.hub import fetch

# Files that `datasets` reads text rows from, and its configuration of the repository; never code.
FILES = ["*.parquet", "*.json*", "*.csv*", "*.tsv*", "*.arrow", "*.txt*", "*.zip", "README.md", ".huggingface.yaml"]
# Without original_question, only rows that repeat a held-out question are recognised; without stratum, no strata.
OPTIONAL = ("original_question", "stratum")


def hub_rows(source: Source, where: str) -> Iterable[dict[str, Any]]:
    """Rows of one split, with the columns that `source` names under their names on the hub; read from disk as needed.

    Raises BadInput, naming the subsets, splits or columns that exist.
    """
    assert source.hub is not None
    folder = fetch("dataset", source.hub, source.revision, FILES, where)
    dataset = _split(_builder(folder, source, where), folder, source, where)
    for ours, name in source.columns.items():
        if name not in dataset.column_names and ours not in OPTIONAL:
            where, expected = f"{where}.columns.{ours}", f"one of {', '.join(dataset.column_names)}"
            remedy = f"Map it with {where}=<name>."
            raise refuse(where, f"no such column in {source.hub}", got=name, expected=expected, remedy=remedy)
    read = [c for c in dataset.column_names if c in source.columns.values()]
    rows: Iterable[dict[str, Any]] = dataset.select_columns(read)
    return rows


def _builder(folder: Path, source: Source, where: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(logging.CRITICAL)  # what it would report is in the refusal
    try:
        return datasets.load_dataset_builder(str(folder), source.subset)
    except _errors() as error:
        try:
            there = datasets.get_dataset_config_names(str(folder))
        except _errors():
            there = []
        if there and source.subset not in there:
            what = f"{source.hub} has several" if source.subset is None else f"no such subset of {source.hub}"
            expected = f"one of {', '.join(there)}"
            raise refuse(f"{where}.subset", what, got=source.subset, expected=expected) from None
        raise _unreadable(error, folder, source, where) from None


def _split(builder: Any, folder: Path, source: Source, where: str) -> Any:
    try:
        builder.download_and_prepare()
    except _errors() as error:
        raise _unreadable(error, folder, source, where) from None
    sizes = {str(name): info.num_examples for name, info in builder.info.splits.items()}
    named = re.match(r"\w+", source.split)  # `train[:100]` is a part of `train`
    if named is None or named[0] not in sizes:
        expected = f"one of {', '.join(sizes)}"
        raise refuse(f"{where}.split", f"no such split in {source.hub}", got=source.split, expected=expected)
    if sizes[named[0]] == 0:
        raise refuse(f"{where}.split", f"this split of {source.hub} is empty", got=source.split)
    try:
        return builder.as_dataset(split=source.split)
    except (ValueError, AssertionError) as error:
        raise refuse(f"{where}.split", reason_of(error), got=source.split) from None


def _errors() -> tuple[type[Exception], ...]:
    """What `datasets` raises for files that it cannot make rows of."""
    from datasets.exceptions import DatasetsError

    return (DatasetsError, OSError, ValueError, RuntimeError, TypeError, KeyError, StopIteration)


def _unreadable(error: Exception, folder: Path, source: Source, where: str) -> BadInput:
    reason = reason_of(error.__cause__ or error)
    if not any(f.is_file() for f in folder.rglob("*") if f.name != "README.md"):
        reason = "it has no files with rows; code of a repository is never run"
    remedy = f"Give a file: {where}.path=<file>."
    return refuse(f"{where}.hub", f"cannot be read ({reason})", got=source.hub, remedy=remedy)
