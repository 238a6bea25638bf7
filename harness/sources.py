"""Rows of a data set from JSON, JSONL or parquet files, the hub, or the tiny benchmark's generator."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.bad_input import refuse
from harness.job import Source
from harness.schema import ROOT
from harness.scoring import reference_answer

Row = dict[str, str]


@dataclass(frozen=True)
class Question:
    text: str
    reference: str


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
    from harness.hub_rows import hub_rows

    return hub_rows(source, where)


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
