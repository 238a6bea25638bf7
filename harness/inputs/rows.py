"""Rows of a data set from JSON, JSONL or parquet files, the hub, or the tiny benchmark's generator."""

from __future__ import annotations

import codecs
import dataclasses
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from harness.config.schema import Source
from harness.errors import reason_of, refuse
from harness.hashing import sha256
from harness.inputs.hub_datasets import hub_rows
from harness.paths import ROOT
from harness.scoring import reference_answer

Row = dict[str, str]
NUMERIC = ("answer", "response", "stratum")  # columns in which other programs write 18 for "18"
STRATUM = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,39}")  # safe as the head of a column in Markdown, HTML and CSV
MOST_STRATA = 20  # each is a column of the results table


@dataclass(frozen=True)
class Question:
    """stratum: the group that the question is also scored in, such as `known` or `new`; "" for none."""

    text: str
    reference: str
    stratum: str = ""


def questions_hash(questions: list[Question]) -> str:
    return sha256([[q.text, q.reference, *([q.stratum] if q.stratum else [])] for q in questions])


def read_questions(source: Source, where: str) -> list[Question]:
    """Questions whose reference answers parse, with the strata of the column `stratum`, if there is one.

    Raises BadInput, naming the row, for an answer that does not parse and for what cannot be a stratum.
    """
    source = dataclasses.replace(source, columns={"stratum": "stratum"} | source.columns)
    questions, strata = [], {""}
    for number, row in stream_rows(source, where, needed=("question", "answer")):
        place, stratum = f"{source.path or source.hub}:{number}", row.get("stratum", "").strip()
        try:
            reference_answer(row["answer"])
        except ValueError as error:
            raise refuse(place, f"reference answer does not parse ({error})") from None
        strata.add(stratum)
        if len(strata) > MOST_STRATA + 1 or not (stratum == "" or STRATUM.fullmatch(stratum)):
            expected = f"at most {MOST_STRATA} short names of letters, digits, spaces and . _ + -"
            remedy = f"Map another column with {where}.columns.stratum=<name>."
            raise refuse(place, "not a stratum", got=_short(stratum), expected=expected, remedy=remedy)
        questions.append(Question(row["question"], row["answer"], stratum))
    return questions


def stream_rows(source: Source, where: str, *, needed: tuple[str, ...]) -> Iterator[tuple[int, Row]]:
    """Rows with our column names, in file order, each with its number: the line in JSONL, else counted from 1.

    A numeric answer or response becomes text. Raises BadInput, naming file and row, where a `needed` column is not a
    non-empty string.
    """
    if unmapped := [name for name in needed if name not in source.columns]:
        raise refuse(f"{where}.columns", f"no column for {unmapped[0]}", expected=f"{unmapped[0]}: <name>")
    rows = _read_local(source.path, where) if source.path is not None else enumerate(hub_rows(source, where), 1)
    place, empty = source.path or source.hub, True
    for number, row in rows:
        yield number, _checked_row(row, f"{place}:{number}", source.columns, needed)
        empty = False
    if empty:
        raise refuse(where, "no rows", got=place, expected="at least one row")


def _checked_row(row: Any, place: str, columns: dict[str, str], needed: tuple[str, ...]) -> Row:
    if not isinstance(row, dict):
        raise refuse(place, "not a row", got=_short(row), expected="an object with named columns")
    out: Row = {}
    for ours, name in columns.items():
        value = row.get(name)
        if ours in NUMERIC:
            value = _as_text(value)
        if ours in needed and (not isinstance(value, str) or not value.strip()):
            have = ", ".join(sorted(map(str, row))) or "nothing"
            what, expected = f"column {name!r} is missing or empty", "a non-empty string"
            remedy = f"The row has {have}; map columns with data.*.columns.{ours}=<name>."
            raise refuse(place, what, got=_short(value), expected=expected, remedy=remedy)
        if isinstance(value, str):
            if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
                what = f"column {name!r} holds half a character (a lone surrogate, as when an emoji is cut in two)"
                raise refuse(place, what, got=_short(value), expected="whole characters", remedy="Correct this row.")
            out[ours] = value
    return out


def _as_text(value: Any) -> Any:
    """A finite number in plain digits (18.0 as 18, as pandas writes integers beside gaps); anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not math.isfinite(value):
        return value
    text = format(Decimal(str(value)) if isinstance(value, float) else Decimal(value), "f")
    return text.removesuffix(".0")


def _short(value: Any) -> Any:
    """A value for a message: a nested one may be as long as its file."""
    return value if len(text := str(value)) <= 200 else f"{text[:200]}..."


# -- local files -------------------------------------------------------------------------------------------------------
def _read_local(path: str, where: str) -> Iterator[tuple[int, Any]]:
    if path.startswith("generated:"):
        return enumerate(read_generated(path.removeprefix("generated:"), where), 1)
    file = local_file(path, where)
    with open(file, "rb") as stream:
        start = stream.read(1000)
    if file.suffix == ".parquet" or start.startswith(b"PAR1"):
        return enumerate(_read_parquet(file, path, where), 1)
    if start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        return enumerate(_value(_text(file.read_bytes(), 0, path, where), 1, path, "an array of objects"), 1)
    return _read_json_lines(file, path, where)


def local_file(path: str, where: str) -> Path:
    """`path`, relative to the working directory or the repository. Raises BadInput if there is no such file."""
    file = Path(path) if Path(path).is_absolute() or Path(path).exists() else ROOT / path
    if not file.is_file():
        raise refuse(f"{where}.path", "no such file", got=path, expected="a JSON, JSONL or parquet file")
    return file


def _read_parquet(file: Path, path: str, where: str) -> Iterator[Any]:
    """By batches: a whole table as Python objects is many times its file."""
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise refuse(f"{where}.path", f"not a parquet file ({reason_of(error)})", got=path) from None


# Python refuses to make an int of more than 4,300 digits.
_JSON = json.JSONDecoder(parse_int=lambda digits: int(digits) if len(digits) < 1000 else Decimal(digits))


def _read_json_lines(file: Path, path: str, where: str) -> Iterator[tuple[int, Any]]:
    """Skips blank lines, and byte order marks (also inside: a file may be several joined together)."""
    start = 0  # of the line, in bytes
    with open(file, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            if text := _text(line, start, path, where).strip():
                yield number, _value(text, number, path, "one JSON object per line")
            start += len(line)


def _text(content: bytes, start: int, path: str, where: str) -> str:
    """`content`, which begins at byte `start` of the file, without its byte order mark."""
    try:
        return content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        what = f"not UTF-8 text ({error.reason} at byte {start + error.start})"
        raise refuse(f"{where}.path", what, got=path) from None


def _value(text: str, line: int, path: str, expected: str) -> Any:
    """The JSON value in `text`, which begins on this line of the file. Raises BadInput."""
    try:
        return _JSON.decode(text)
    except json.JSONDecodeError as error:
        place, got = f"{path}:{line + error.lineno - 1}", text[max(0, error.pos - 30) : error.pos + 30]
        raise refuse(place, f"not JSON ({error.msg})", got=got, expected=expected) from None
    except RecursionError:
        raise refuse(f"{path}:{line}", "not JSON (nested too deeply)", got=text[:60], expected=expected) from None


def read_generated(split: str, where: str) -> list[Any]:
    from harness.tiny import problems

    splits = {"train": problems.train_rows, "questions": problems.question_rows, "test": problems.test_rows}
    if split not in splits:
        raise refuse(f"{where}.path", "unknown generated split", got=split, expected=f"one of {', '.join(splits)}")
    return list(splits[split]())
