"""Rows of a data set from JSON, JSONL or parquet files, the hub, or the tiny benchmark's generator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from harness.config.schema import Source
from harness.errors import BadInput, refuse
from harness.hashing import sha256
from harness.paths import ROOT
from harness.scoring import reference_answer


def questions_hash(questions: list[Question]) -> str:
    return sha256([[q.text, q.reference] for q in questions])


Row = dict[str, str]
CHUNK = 2**16  # characters of a JSON array read at a time
LONGEST = 2**26  # characters within which a row must end, lest a broken file be read whole to find its error


@dataclass(frozen=True)
class Question:
    text: str
    reference: str


def stream_rows(source: Source, where: str, *, needed: tuple[str, ...]) -> Iterator[Row]:
    """Rows with our column names, in file order, read as they are asked for.

    Raises BadInput, naming file and row, for anything but non-empty strings in the `needed` columns.
    """
    if source.path is None and source.hub is None:
        raise refuse(where, "neither path nor hub is given", remedy=f"Set {where}.path=<file>.")
    if unmapped := [name for name in needed if name not in source.columns]:
        raise refuse(f"{where}.columns", f"no column is given for {unmapped[0]}", expected=f"{unmapped[0]}: <name>")
    raw = _read_local(source.path, where) if source.path is not None else _read_hub(source, where)
    place, number = source.path or source.hub, 0
    for number, row in enumerate(raw, start=1):
        yield _checked_row(row, f"{place}:{number}", source.columns, needed)
    if number == 0:
        raise refuse(where, "no rows", got=place, expected="at least one row")


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


# -- local files -------------------------------------------------------------------------------------------------------
def _read_local(path: str, where: str) -> Iterator[Any]:
    if path.startswith("generated:"):
        yield from read_generated(path.removeprefix("generated:"), where)
        return
    file = local_file(path, where)
    if file.suffix == ".parquet":
        yield from _read_parquet(file, path, where)
        return
    try:
        if _begins_array(file):
            yield from _read_json_array(file, path)
        else:
            yield from _read_json_lines(file, path)
    except UnicodeDecodeError as error:
        raise refuse(f"{where}.path", f"not UTF-8 text ({error.reason} at byte {error.start})", got=path) from None


def local_file(path: str, where: str) -> Path:
    """The file that `path` names, here or in the repository. Raises BadInput where there is none."""
    file = Path(path) if Path(path).is_absolute() or Path(path).exists() else ROOT / path
    if not file.is_file():
        raise refuse(f"{where}.path", "no such file", got=path, expected="a JSON, JSONL or parquet file")
    return file


def _read_parquet(file: Path, path: str, where: str) -> Iterator[Any]:
    """By batches: a whole table as Python objects is many times its file."""
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise refuse(f"{where}.path", f"not a parquet file ({reason})", got=path) from None


def _begins_array(file: Path) -> bool:
    with open(file, "rb") as stream:
        return stream.read(CHUNK).lstrip().startswith(b"[")


def _read_json_lines(file: Path, path: str) -> Iterator[Any]:
    start = 0  # of the line, in bytes
    with open(file, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                text = line.decode().removesuffix("\n")
                yield json.loads(text)
            except UnicodeDecodeError as error:
                error.start += start
                raise
            except json.JSONDecodeError as error:
                raise _not_json(f"{path}:{number}", error, text, "one JSON object per line") from None
            start += len(line)


def _read_json_array(file: Path, path: str) -> Iterator[Any]:
    """The elements of an array, one at a time: MetaMathQA is one array of 395,000 rows, 400 MB of text.

    Parsed by `json`, as JSON lines are, so that both take the same rows (NaN for a text that is missing, say).
    """
    parser, number, rest = json.JSONDecoder(), 1, ""  # `rest`: read, but not yet parsed
    with open(file, encoding="utf-8") as stream:
        rest = _more(stream, "").lstrip().removeprefix("[")
        while True:
            rest = rest.lstrip()
            if rest.startswith("]"):
                break
            separator = "," if number > 1 else ""
            try:
                if not rest.startswith(separator):
                    raise json.JSONDecodeError("Expecting ',' delimiter", rest, 0)
                row, end = parser.raw_decode(rest.removeprefix(separator).lstrip())
            except json.JSONDecodeError as error:
                longer = _more(stream, rest)
                if longer == rest or len(rest) > LONGEST:
                    raise _not_json(f"{path}:{number}", error, rest, "an array of objects") from None
                rest = longer
                continue
            yield row
            number, rest = number + 1, rest.removeprefix(separator).lstrip()[end:]
        if after := (rest[1:] + stream.read(LONGEST)).strip():
            raise refuse(f"{path}:{number}", "text after the array", got=after[:60], expected="the end of the file")


def _more(stream: TextIO, text: str) -> str:
    """`text` and what follows it: at least as much again, so that a long row is not read in tiny steps."""
    try:
        return text + stream.read(max(CHUNK, len(text)))
    except UnicodeDecodeError as error:  # counted from where its chunk begins
        error.start += stream.buffer.tell() - len(error.object)
        raise


def _not_json(place: str, error: json.JSONDecodeError, text: str, expected: str) -> BadInput:
    return refuse(place, f"not JSON ({error.msg})", got=text[:60], expected=expected)


def read_generated(split: str, where: str) -> list[Any]:
    from harness.tiny import problems

    splits = {"train": problems.train_rows, "questions": problems.question_rows, "test": problems.test_rows}
    if split not in splits:
        raise refuse(f"{where}.path", "unknown generated split", got=split, expected=f"one of {', '.join(splits)}")
    return list(splits[split]())


def _read_hub(source: Source, where: str) -> Any:
    from harness.inputs.hub_datasets import hub_rows

    return hub_rows(source, where)


def read_questions(source: Source, where: str) -> list[Question]:
    """Questions whose reference answers parse; raises BadInput naming the row otherwise."""
    questions = []
    for number, row in enumerate(stream_rows(source, where, needed=("question", "answer")), start=1):
        try:
            reference_answer(row["answer"])
        except ValueError as error:
            raise refuse(
                f"{source.path or source.hub}:{number}", f"reference answer does not parse ({error})"
            ) from None
        questions.append(Question(row["question"], row["answer"]))
    return questions
