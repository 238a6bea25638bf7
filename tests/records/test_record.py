"""Records: what a reader accepts, and that no record stops or rewrites the tables of the others."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.evaluation.metrics import to_nats
from harness.hashing import sha256
from harness.paths import PUBLISHED
from harness.records.record import SCHEMA_VERSION, checked
from harness.records.store import read_record, read_records
from harness.report.build import files
from harness.report.markdown import markdown_table
from harness.report.readme import results
from harness.report.table import rows
from tests import factory

EVIL = "=a|b\n# head\n<img src=x onerror=alert(1)> ![i](http://x) [l](http://x) `c` $\\frac{ -->"
MUTATIONS = [None, EVIL, "", -1, 0.5, 1e300, 10**400, float("nan"), True, [EVIL], {"a": EVIL}]
GONE = object()


def whole(seed: int) -> dict[str, Any]:
    """A record with every key that one may have."""
    record = factory.record("lora", seed, questions=40)
    turn = {"accuracy": 0.5, "correct": 20, "total": 40, "changed": 1, "texts_differ": 2}
    scores = factory.scores([True] * 10 + [False] * 30)
    record["test"] = scores | {"strata": factory.strata([True] * 10 + [False] * 30)}
    record["test"] |= factory.responses([8.0 + n for n in range(40)], 900)
    return record | {
        "lr_chosen": "tuned",
        "clamped": {},
        "calibration_sha256": None,
        "data": {"train_rows": 10},
        "platinum": scores | {"source": "p", "not_found": 3},
        "repeat": {"turns": [turn], "largest_difference": 0.1},
        "error": {"class": "E", "message": "m", "traceback": "t"},
    }


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def mutants() -> list[dict[str, Any]]:
    """Each place × each mutation, under an id of its own where the id is not what was changed.

    Of the settings, which may be anything, three: each is drawn in a section of its own.
    """
    made = []
    for path in places(whole(0)):
        if path[0] == "science" and path[1:] not in ((), ("prompt",), ("batch_size",), ("adapter.r",)):
            continue
        for value in (*MUTATIONS, GONE):
            record = whole(100 + len(made))
            at = record
            for key in path[:-1]:
                at = at[key]
            if value is GONE:
                del at[path[-1]]
            else:
                at[path[-1]] = copy.deepcopy(value)
            made.append(record)
    return made


def test_no_record_stops_the_tables_of_the_others(tmp_path: Path) -> None:
    """Each mutant is a row or is named; and whatever is in it, it stays text in every output."""
    good = [factory.record(v, s, questions=40) for v in ("lora", "hra") for s in (0, 1)]
    factory.write(tmp_path, *good)
    changed = mutants()
    for n, record in enumerate(changed):
        place = tmp_path / (record["run_id"] if _named(record) else f"mutant{n}")
        place.mkdir()
        (place / "result.json").write_text(json.dumps(record))
    found = read_records([tmp_path])
    assert len(found.records) + len(found.skipped) == len(good) + len(changed)
    assert {r["run_id"] for r in good} <= {r["run_id"] for r in found.records}
    assert len(found.skipped) > len(changed) // 2
    assert all(len(line) < 600 and not re.search(r"[<>|\n]|]\(", line) for line in found.skipped)
    frame = rows(found.records)
    made = files(frame, found.records, [tmp_path]) | {
        "README.md": results(frame),
        "able.md": markdown_table("t", frame, {"lora": {"8bit": EVIL}}),
    }
    for name, text in made.items():
        assert "<img" not in text, name
        if name.endswith(".md"):
            assert set(re.findall(r"]\((?!plots/)([a-z]+://[^/)]*)", text)) <= {"https://arxiv.org"}, name
            assert not re.search(r"^# head|http://x", text, re.MULTILINE), name
        if name.endswith(".csv"):
            cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row if cell[:1] in tuple("=+-@")]
            assert all(re.fullmatch(r"-?[\d.]+(e[+-]\d+)?", cell) for cell in cells), name


def _named(record: dict[str, Any]) -> bool:
    return isinstance(record.get("run_id"), str) and bool(re.fullmatch(r"[\w.+-]{9,}", record["run_id"]))


@pytest.mark.parametrize(
    "content", ["NaN", "1e999", "9" * 5000, "[" * 100_000, '{"a": ' * 100_000, "\\ud800", "", "nul"]
)
def test_files_that_are_no_json(tmp_path: Path, content: str) -> None:
    (tmp_path / "run").mkdir()
    text = json.dumps(whole(0)).replace('"seconds": ', f'"seconds": {content}, "x": ', 1)
    for broken in (text, content):
        (tmp_path / "run" / "result.json").write_text(broken)
        assert read_record(tmp_path / "run") is None
        assert len(read_records([tmp_path]).skipped) == 1


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "result.json")
    (tmp_path / "folder" / "result.json").mkdir(parents=True)
    found = read_records([tmp_path])
    assert (found.records, len(found.skipped)) == ([], 2)


def test_earlier_versions_are_read_as_todays() -> None:
    """Real records: no number changes; settings of version 1 gain the one version of results there was."""
    found = sorted(PUBLISHED.glob("*/result.json"))
    assert found
    for file in found:
        raw = json.loads(file.read_text())
        record = checked(raw)
        assert record["schema_version"] == SCHEMA_VERSION
        stamps = {"schema_version", "science", "science_hash", "engine_hash", "results_version"}
        assert {k: v for k, v in record.items() if k not in stamps} == {k: v for k, v in raw.items() if k not in stamps}
        assert record["science"] == {"results_version": 1} | raw["science"]
        assert record["science_hash"] == sha256(record["science"])
    old = {k: v for k, v in factory.record().items() if k not in ("engine_hash", "results_version")}
    old |= {"schema_version": 1, "science": {k: v for k, v in old["science"].items() if k != "results_version"}}
    old["science_hash"] = sha256(old["science"])
    assert checked(old)["science_hash"] == sha256(factory.record()["science"])
    assert checked(factory.record()) == factory.record()
    with pytest.raises(ValueError, match="schema_version 4; expected 1 to 3"):
        checked(factory.record() | {"schema_version": 4})


@pytest.mark.parametrize(
    "change",
    [
        {"response_loss": 1.23},  # 1,100 nats over 900 tokens are 1.2222
        {"response_tokens": 880},
        {"response_tokens": 0, "response_loss": 0.0},
        {"response_nats": to_nats([27.5] * 39)},
        {"response_nats": to_nats([27.5] * 38 + [-1.0, 56.0])},
        {"response_nats": to_nats([27.5] * 39 + [math.inf])},
        {"response_nats": to_nats([27.5] * 40)[:-1]},
        {"response_nats": "é" * 107},
        {"response_nats": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_response_losses_that_do_not_add_up_are_refused(change: dict[str, Any]) -> None:
    """What is recorded twice agrees to fp16's precision, and the three keys come together."""
    record = whole(0)
    equal = factory.responses([27.5] * 39 + [27.51], 900)  # 27.51 is not a value of fp16
    assert checked(record | {"test": record["test"] | equal})
    record["test"] = {k: v for k, v in (record["test"] | change).items() if v is not None}
    with pytest.raises(ValueError, match=r"^test[.:].*response_"):
        checked(record)


@pytest.mark.parametrize(
    "change",
    [
        {"known": {"correct": 9, "total": 20, "accuracy": 0.45}},  # 10 of 40 were right, all in `known`
        {"known": {"correct": 10, "total": 20, "accuracy": 0.45}},
        {"known": {"correct": 0, "total": 0, "accuracy": 0.0}},
        {"new": {"correct": 0, "total": 21, "accuracy": 0.0}},
        {"more": {"correct": 1, "total": 1, "accuracy": 1.0}},
        {"<b>": {"correct": 0, "total": 1, "accuracy": 0.0}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_strata_that_do_not_add_up_are_refused(change: dict[str, Any]) -> None:
    record = whole(0)
    assert checked(record) == record
    record["test"]["strata"] |= change
    with pytest.raises(ValueError, match=r"^test\.strata"):
        checked(record)
