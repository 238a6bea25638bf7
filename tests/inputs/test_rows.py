"""Files of rows: every format gives the same ones, broken ones name the line, columns are mapped by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.config.job import Source
from harness.config.validate import BadInput
from harness.hashing import sha256
from harness.inputs.fingerprints import source_fingerprint
from harness.inputs.rows import Question, Row, questions_hash, read_questions, stream_rows
from tests.conftest import training_rows, write_jsonl


def source(path: Path | None, **columns: str) -> Source:
    return Source(path=str(path), hub=None, subset=None, split="train", revision=None, columns=columns)


def read_rows(source: Source, where: str, *, needed: tuple[str, ...]) -> list[Row]:
    return [row for _, row in stream_rows(source, where, needed=needed)]


def test_formats_give_the_same_rows(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = training_rows(7)
    jsonl = write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=2))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "c.parquet")
    (tmp_path / "d.jsonl").write_bytes(jsonl.read_bytes().rstrip(b"\n").replace(b"\n", b"\r\n"))
    columns = {"query": "query", "response": "response"}
    found = [read_rows(source(p, **columns), "x", needed=("query",)) for p in sorted(tmp_path.iterdir())]
    assert len(found) == 4
    assert all(f == [{k: r[k] for k in columns} for r in rows] for f in found)


def test_arrays_are_read_like_lines(tmp_path: Path) -> None:
    """Whatever the white space, texts and escapes."""
    rows = [{"query": f'a"]}},[{{\\ {"½" * k} \n', "n": [k, {"x": None}], "response": "b" * k} for k in range(1, 40)]
    texts = [
        json.dumps(rows),
        json.dumps(rows, indent=3, ensure_ascii=False),
        " \n[\n" + " , ".join(map(json.dumps, rows)) + "\t]\n \n",
    ]
    columns = {"query": "query", "response": "response"}
    expected = [{k: r[k] for k in columns} for r in rows]
    for n, text in enumerate(texts):
        (tmp_path / f"{n}.json").write_text(text, encoding="utf-8")
        assert read_rows(source(tmp_path / f"{n}.json", **columns), "x", needed=("query",)) == expected
    (tmp_path / "broken.json").write_text(json.dumps(rows, indent=1)[:-9])
    with pytest.raises(BadInput, match=r":390: not JSON \(.*\), got '.*'; expected an array of objects\.$"):
        read_rows(source(tmp_path / "broken.json", **columns), "x", needed=("query",))


ARRAYS = [
    (b"[]", r"^x: no rows, got '.*'; expected at least one row\.$"),
    (b"[", r":1: not JSON \(Expecting value\), got '\['; expected an array of objects\.$"),
    (b'[{"a": "b"}\n{"a": "b"}]', r":2: not JSON \(Expecting ',' delimiter\), got '.*\{\"a\".*"),
    (b'[{"a": "b"},]', r":1: not JSON \(.*\), got '.*,\]'; .*"),
    (b'[{"a": "b"}] [', r":1: not JSON \(Extra data\), got '.* \['; expected an array of objects\.$"),
    (b'[{"a": "b"}, 7]', r":2: not a row, got 7; expected .*"),
    (
        b'[{"a": "b"}, {"a": "' + b"c" * 300 + b"\xff" + b'"}]',
        r"^x.path: not UTF-8 text \(.* at byte 320\), got '.*'\.$",
    ),
    (b'{"a": "b"}\n{"a": "\xff"}\n', r"^x.path: not UTF-8 text \(.* at byte 18\), got '.*'\.$"),
]


@pytest.mark.parametrize(("content", "message"), ARRAYS, ids=[repr(c[:24]) for c, _ in ARRAYS])
def test_broken_arrays_name_the_place(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_rows(source(tmp_path / "a.json", a="a"), "x", needed=("a",))


def test_columns_are_mapped_by_name(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"q": "1+1?", "a": "#### 2", "question": "not this"}])
    assert read_questions(source(path, question="q", answer="a"), "data.test") == [Question("1+1?", "#### 2")]
    with pytest.raises(BadInput, match=r"^data.test.columns: no column for answer; expected answer: "):
        read_questions(source(path, question="q"), "data.test")


COLUMNS = {"question": "q", "answer": "a"}


def test_strata_are_read_from_a_column_of_any_name(tmp_path: Path) -> None:
    """By default from `stratum`; absent, empty and null are none, numbers are text. Without strata nothing changes."""
    levels = [{"level": 5}, {"level": " Level 5 "}, {"level": ""}, {"level": None}, {"stratum": "new"}, {}]
    asked = [{"q": "1+1?", "a": "#### 2"} | more for more in levels]
    path = write_jsonl(tmp_path / "a.jsonl", asked)
    mapped = read_questions(source(path, **COLUMNS, stratum="level"), "x")
    assert [q.stratum for q in mapped] == ["5", "Level 5", "", "", "", ""]
    default = source(path, **COLUMNS)
    assert [q.stratum for q in read_questions(default, "x")] == ["", "", "", "", "new", ""]
    plain = read_questions(source(write_jsonl(tmp_path / "b.jsonl", [asked[-1]]), **COLUMNS), "x")
    assert questions_hash(plain) == sha256([["1+1?", "#### 2"]])  # that of records without strata
    assert len({questions_hash(qs) for qs in ([mapped[0]], [mapped[1]], plain)}) == 3
    prints = [
        source_fingerprint(s, tmp_path, "x").content
        for s in (default, source(path, **COLUMNS, stratum="stratum"), source(path, **COLUMNS, stratum="level"))
    ]
    assert prints[0] == prints[1] != prints[2]
    assert prints[0].endswith(f"columns:{sha256(COLUMNS)[:8]}")


@pytest.mark.parametrize(
    ("strata", "line"), [(["new", "<b>"], 2), (["a|b"], 1), (["x" * 41], 1), ([f"id {n}" for n in range(99)], 21)]
)
def test_what_cannot_head_a_column_is_no_stratum(tmp_path: Path, strata: list[str], line: int) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"q": "1+1?", "a": "#### 2", "stratum": s} for s in strata])
    message = (
        rf"a\.jsonl:{line}: not a stratum, got '.+'; expected at most 20 short names .* x\.columns\.stratum=<name>\.$"
    )
    with pytest.raises(BadInput, match=message):
        read_questions(source(path, **COLUMNS), "x")


# -- files of other programs -------------------------------------------------------------------------------------------
def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


ROWS = [{"question": f"{k} + {k} = ½?", "answer": f"{2 * k}"} for k in range(1, 4)]
LINES = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in ROWS)
ARRAY = json.dumps(ROWS)
BOM = "\ufeff"
READ_RIGHTLY = {
    "bom.jsonl": BOM + LINES,
    "bom.json": BOM + ARRAY,
    "bom-space.json": f"{BOM}\n  {ARRAY}",
    "two-files-in-one.jsonl": BOM + LINES[: LINES.index("\n") + 1] + BOM + LINES[LINES.index("\n") + 1 :],
    "blank-lines.jsonl": "\n" + LINES.replace("\n", "\n\n  \n") + "\n",
    "integers.jsonl": LINES.replace('"answer": "', '"answer": ').replace('"}', "}"),
    "floats.json": json.dumps([r | {"answer": float(r["answer"])} for r in ROWS]),
    "huge.jsonl": LINES.replace("}", f', "id": {"9" * 5000}}}'),
    "huge.json": ARRAY.replace("}", f', "id": {"9" * 5000}}}'),
}


@pytest.mark.parametrize("name", READ_RIGHTLY)
def test_files_of_other_programs_are_read(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, READ_RIGHTLY[name])
    expected = [Question(r["question"], r["answer"]) for r in ROWS]
    assert read_questions(source(path, question="question", answer="answer"), "x") == expected


def test_parquet_keeps_numbers_exact(tmp_path: Path) -> None:
    """Also by its first bytes, whatever its name; integers beside gaps are floats in pandas."""
    import decimal

    import pyarrow
    import pyarrow.parquet

    for kind, values, expected in (
        ("int64", [7, -2], ["7", "-2"]),
        ("float64", [18.0, 2.5], ["18", "2.5"]),
        ("decimal", [decimal.Decimal("1.10"), decimal.Decimal("12345678901234567890.25")], None),
    ):
        rows = pyarrow.Table.from_pydict({"question": ["a?", "b?"], "answer": values})
        pyarrow.parquet.write_table(rows, tmp_path / kind)
        read = read_questions(source(tmp_path / kind, question="question", answer="answer"), "x")
        if expected is None:
            assert [decimal.Decimal(q.reference) for q in read] == values
        else:
            assert [q.reference for q in read] == expected


GOOD = json.dumps({"question": "1 + 1?", "answer": "2"})
REFUSED: dict[str, tuple[str | bytes, str]] = {
    "surrogate.jsonl": (
        f"{GOOD}\n\n" + r'{"question": "a \ud83d b", "answer": "2"}',
        r":3: column 'question' holds half a",
    ),
    "surrogate.json": (f"[{GOOD}, " + r'{"question": "a", "answer": "2 \udc00"}]', r":2: column 'answer' holds half a"),
    "nested.jsonl": (
        GOOD + '\n{"question": {"text": "a"}, "answer": "2"}',
        r":2: column 'question' is missing or empty",
    ),
    "deep.jsonl": (f"{GOOD}\n" + "[" * 100_000, r":2: not JSON \(nested too deeply\)"),
    "deep.json": ("[" * 100_000, r":1: not JSON \(nested too deeply\)"),
    "array-of-arrays.json": ('[["a", "2"]]', r":1: not a row, got \['a', '2'\]"),
    "true.jsonl": ('{"question": "a", "answer": true}', r":1: column 'answer' is missing or empty, got True"),
    "nan.jsonl": ('{"question": "a", "answer": NaN}', r":1: column 'answer' is missing or empty, got nan"),
    "infinite.jsonl": ('{"question": "a", "answer": 1e999}', r":1: column 'answer' is missing or empty, got inf"),
    "an-id.jsonl": ('{"question": 17, "answer": 1}', r":1: column 'question' is missing or empty, got 17"),
    "x.gz": (b"\x1f\x8b\x08\x00abc", r"^x.path: not UTF-8 text \(.* at byte 1\), got .*gz'"),
    "x.jsonl": (b"\x28\xb5\x2f\xfdabc", r"^x.path: not UTF-8 text \(.* at byte 1\)"),
    "utf16.jsonl": (GOOD.encode("utf-16"), r"^x.path: not UTF-8 text \(.* at byte 0\)"),
    "late.json": (f"[{GOOD}, ".encode("utf-8-sig") + b'"\xff"]', r"^x.path: not UTF-8 text \(.* at byte 44\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_by_file_and_row(tmp_path: Path, name: str) -> None:
    content, message = REFUSED[name]
    path = write(tmp_path / name, content)
    with pytest.raises(BadInput, match=message) as stopped:
        read_questions(source(path, question="question", answer="answer"), "x")
    assert len(str(stopped.value)) < 500 + len(str(path))
    str(stopped.value).encode()  # can be printed
