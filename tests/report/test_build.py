"""README and reports/ are what the published records give, byte for byte, in any process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.paths import ROOT
from harness.records.store import read_records
from harness.report import publish
from harness.report.build import files
from harness.report.points import losses
from harness.report.publish import check, rebuild, show
from harness.report.table import rows
from tests import factory
from tests.report.conftest import RECORDS


@pytest.mark.slow
def test_check_holds_every_file_to_the_records(repository: Path, monkeypatch: Any, capsys: Any) -> None:
    """One byte anywhere, a file too few or a figure too many fails; half-written and foreign records are only named."""
    published = factory.write(repository / "runs" / "published", *RECORDS)
    rebuild()
    check()
    made = sorted(p for p in (repository / "reports").rglob("*") if p.is_file())
    assert {p.suffix for p in made} == {".csv", ".md", ".html", ".svg"}
    assert len(made) == 5
    texts = publish.build()
    with monkeypatch.context() as patch:
        patch.setattr(publish, "build", lambda: texts)  # it takes a second, and the records do not change here
        _break_each([*made, repository / "README.md"])
    check()
    (published / "half").mkdir()
    (published / "half" / "result.json").write_text(json.dumps(RECORDS[0])[:300])
    (published / "foreign").mkdir()
    capsys.readouterr()
    check()
    said = capsys.readouterr().out
    assert "not counted: half: not a record" in said
    assert "not counted: foreign: no result.json" in said
    stale = repository / "reports" / "plots" / "old-accuracy.svg"
    stale.write_text("")
    with pytest.raises(SystemExit, match=r"old-accuracy\.svg: not what"):
        check()
    rebuild()
    assert not stale.exists()


def _break_each(files: list[Path]) -> None:
    for file in files:
        before = file.read_bytes()
        at = before.rindex(b"lora")
        file.write_bytes(before[:at] + b"Lora" + before[at + 4 :])
        with pytest.raises(SystemExit, match=f"{re.escape(file.name)}: not what runs/published gives"):
            check()
        if file.name != "README.md":
            file.unlink()
            with pytest.raises(SystemExit, match=f"{re.escape(file.name)}: not what runs/published gives"):
                check()
        file.write_bytes(before)


@pytest.mark.parametrize("count", [0, 1])
def test_with_no_run_and_with_one(repository: Path, count: int, capsys: Any) -> None:
    factory.write(repository / "runs" / "published", *[r for r in RECORDS if r["variant"] == "lora"][:count])
    rebuild()
    check()
    text = (repository / "reports" / "index.html").read_text()
    assert ("No published runs yet." in text) == (count == 0)
    assert len(list((repository / "reports").rglob("*.svg"))) == count
    assert "Published by lora-lite" in text
    if count == 0:
        assert "No published runs yet." in (repository / "README.md").read_text()
        show(str(repository / "nothing"))
        assert "no finished runs yet" in capsys.readouterr().out


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(tmp_path: Path, frame: pd.DataFrame) -> None:
    """Other hash seed, time zone and locale; no date and no version in any file."""
    published = factory.write(tmp_path / "published", *RECORDS)
    here = files(rows(read_records([published]).records), RECORDS, [published])
    code = f"""
import json, pathlib
from harness.records.store import read_records
from harness.report.build import files
from harness.report.table import rows
folder = pathlib.Path({str(published)!r})
found = read_records([folder])
print(json.dumps(files(rows(found.records), found.records, [folder])))
"""
    odd = {
        "PYTHONHASHSEED": "7",
        "TZ": "Asia/Tokyo",
        "LC_ALL": "C",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | odd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout)
    assert [n for n in here if here[n] != there.get(n)] == []
    assert here.keys() == there.keys()
    for name, text in here.items():
        assert not re.search(r"20\d\d-\d\d-\d\dT", text), name


@pytest.mark.parametrize("text", [b"\xff", b"[" * 99_999, b'{"step": 1, "loss": NaN}', b'{"step": 1e999}', b"{}", None])
def test_damaged_losses_stop_nothing(tmp_path: Path, text: bytes | None) -> None:
    factory.write(tmp_path, RECORDS[1])
    file = tmp_path / RECORDS[1]["run_id"] / "metrics.jsonl"
    if text is None:
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(text)
    assert losses(rows([RECORDS[1]]), [tmp_path]) == {}


def test_every_column_is_in_the_long_tables(frame: pd.DataFrame) -> None:
    made = files(frame, RECORDS, [])
    for head in (
        "variant", "8-bit", "4-bit", "test accuracy", "seeds", "difference to lora", "lr", "trained parameters",
        "file, kB", "peak RSS train / eval", "RSS above untrained", "added MACs/token",
        "forgetting",
    ):  # fmt: skip
        assert head in made["results.md"]
        assert head in made["index.html"]
    assert not {"tokens/s", "run, s", "attach, s"} & {
        h.strip() for h in made["results.md"].split("|")
    }  # see make bench
    assert {"p_holm", "detectable", "train_overhead_gb", "unhealthy", "valid_common"} <= set(
        made["results.csv"].splitlines()[0].split(",")
    )


def test_every_set_of_the_page_knows_the_set_with_its_baseline() -> None:
    """The baseline of the same quantization, wherever it stands; null where there is none."""
    cells: list[dict[str, Any]] = [{}, {"quantization": "4bit"}, {"rank": 4}, {"rank": 4, "quantization": "4bit"}]
    made = [factory.record(v, 0, 0.01, **more) for v in ("lora", "hra") for more in cells]
    made += [factory.record("hra", 0, 0.01, quantization="8bit")]
    sets = page_sets(made)
    titles = [s["title"].removeprefix("Embedded benchmark") for s in sets]
    assert dict(zip(titles, [titles[s["base"]] if s["base"] is not None else None for s in sets], strict=True)) == {
        "": "",
        ": 4bit base": ": 4bit base",
        ": 8bit base": None,
        ": other adapter settings": "",
        ": other adapter settings, 4bit base": ": 4bit base",
    }
    flagged = {(s["title"], p["name"]) for s in sets for p in s["points"] if p["baseline"]}
    assert {name for _, name in flagged} == {"lora", "lora 4bit"}
    alone = page_sets([factory.record("lora", 0, 0.01), factory.record("lora", 0, 0.01, rank=4)])
    assert [[p["baseline"] for p in s["points"]] for s in alone] == [[True], [False]]


def page_sets(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The data block of index.html, but for the published tables."""
    html = files(rows(records), records, [])["index.html"]
    block = re.search(r'id="data">(.*?)</script>', html, re.DOTALL)
    assert block
    return [s for s in json.loads(block[1]) if "base" in s]


def test_long_titles_have_figures_of_their_own() -> None:
    long = dict.fromkeys(("weight_decay", "warmup", "clip", "max_length", "batch_size", "steps", "max_new_tokens"), 7)
    made = [
        factory.record(v, 0, 0.01, prompt="P" * 30, quantization=q, **long)
        for v in ("lora", "hra")
        for q in ("4bit", "8bit")
    ]
    plots = [name for name in files(rows(made), made, []) if name.startswith("plots/")]
    assert len(plots) == 2
    assert all(len(name) < 150 for name in plots)
