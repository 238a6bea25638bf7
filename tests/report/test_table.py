"""The table is what the records say and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import BadInput
from harness.evaluation.metrics import from_bits
from harness.records.store import read_records
from harness.report.markdown import fill_block, markdown_table
from harness.report.publish import check, publish, rebuild, show
from harness.report.readme import results
from harness.report.stats import accuracy_interval, wilson
from harness.report.summary import summary_lines
from harness.report.table import rows
from harness.run import run
from tests import factory

QUESTIONS = 40


def record(variant: str = "lora", seed: int = 0, right: list[bool] | None = None, **more: Any) -> dict[str, Any]:
    """A record with figures that are easily found in a table."""
    right = [n % 4 == 0 for n in range(QUESTIONS)] if right is None else right
    made = factory.record(variant, seed, right=right, params=1234567, status=more.get("status", "done"))
    if made["status"] == "done":
        made["train"]["tokens_per_s"] = 4321.0
        made["memory"] = {"train": {"peak_rss_gb": 1.25}, "eval": {"peak_rss_gb": 0.75}}
        made |= {"adapter_file_bytes": 45678, "seconds": 61.0}
    return made | more


# -- records ----------------------------------------------------------------------------------------------------------
def test_what_is_no_finished_record_is_named_and_not_counted(tmp_path: Path) -> None:
    """Each with a reason; a table from the rest is the table without them."""
    good = [record(seed=0), record(seed=1), record("hra", status="diverged"), record("ia3", status="failed")]
    factory.write(tmp_path, *good)
    alone = results(rows(read_records([tmp_path]).records))
    broken: dict[str, Any] = {
        "empty": "",
        "half": json.dumps(record())[:200],
        "binary": b"\xff\x00",
        "list": "[1, 2]",
        "text": '"done"',
        "foreign": '{"accuracy": 0.9}',
        "newer": json.dumps(record(run_id="newer", schema_version=4)),
        "copied": json.dumps(record()),
        "interrupted": json.dumps(record(run_id="interrupted", status="interrupted")),
        "odd": json.dumps(record(run_id="odd", status="half done")),
        "bits": json.dumps(record(run_id="bits", test=record()["test"] | {"correct_bits": "ff"})),
        "sum": json.dumps(record(run_id="sum", test=record()["test"] | {"correct": 39, "accuracy": 39 / 40})),
    }
    for key in ("test", "valid", "memory", "cost", "seconds", "variant", "trainable_params", "adapter_file_bytes"):
        broken[f"no_{key}"] = json.dumps({k: v for k, v in record(run_id=f"no_{key}").items() if k != key})
    for name, content in broken.items():
        (tmp_path / name).mkdir()
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name / "result.json").write_bytes(data)
    (tmp_path / "started").mkdir()
    (tmp_path / "a file").write_text("")
    factory.write(tmp_path / "published", record("dora"))
    factory.write(tmp_path / ".replaced", record("pissa"))

    found = read_records([tmp_path, tmp_path / "no such folder"])
    assert sorted(r["run_id"] for r in found.records) == sorted(r["run_id"] for r in good)
    assert sorted(line.split(":")[0] for line in found.skipped) == sorted([*broken, "started"])
    assert all(len(line.split(": ", 1)[1]) > 8 and "\n" not in line for line in found.skipped)
    assert results(rows(found.records)) == alone


def test_figures_are_those_of_the_records(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    seeds = [(rng.random(QUESTIONS) < p).tolist() for p in (0.4, 0.6)]
    records = [record(seed=n, right=r) for n, r in enumerate(seeds)]
    floor = record("none", right=[True] * 3 + [False] * 37, run_id="tiny-tiny__none__none", lr=None, seed=None)
    lost = record("lora", seed=2, status="diverged")
    frame = rows([*records, floor, lost])
    assert list(frame["variant"]) == ["lora", "none"]
    lora = frame.iloc[0]
    assert lora["accuracy"] == pytest.approx(np.mean(seeds))
    assert (lora["low"], lora["high"]) == accuracy_interval(np.array(seeds))
    assert (lora["seeds"], lora["diverged"], lora["failed"]) == (2, 1, 0)
    assert (frame.iloc[1]["low"], frame.iloc[1]["high"]) == wilson(3, 40)
    text = markdown_table("t", frame, {"lora": {"4bit": "yes", "8bit": "no (why)"}})
    (line,) = [x for x in text.splitlines() if x.startswith("| [lora]")]
    cells = [c.strip() for c in line.strip("|").split("|")]
    assert cells[0] == "[lora](https://arxiv.org/abs/2106.09685) (1 diverged)"
    assert {"yes", "no (why)", "1,234,567", "45.7", "1.25 / 0.75", "0.005"} <= set(cells)
    assert f"{100 * np.mean(seeds):.1f} [{100 * lora['low']:.1f}, {100 * lora['high']:.1f}]" in cells


def test_strata_have_columns_where_there_are_some() -> None:
    """Means over the seeds, in the long table only; a run without strata shows none."""
    drawn = {("lora", 0): 4, ("lora", 1): 2, ("hra", 0): 4}
    records = [record(v, s, [n % k == 0 for n in range(QUESTIONS)]) for (v, s), k in drawn.items()]
    plain = markdown_table("t", rows(records), {})
    for made in records[:2]:
        made["test"]["strata"] = factory.strata(from_bits(made["test"]["correct_bits"], QUESTIONS))
    frame = rows(records)
    lora = frame[frame["variant"] == "lora"].iloc[0]
    assert (lora["accuracy_known"], lora["questions_known"]) == (pytest.approx((5 / 20 + 10 / 20) / 2), 20)
    head, _, *lines = markdown_table("t", frame, {}).splitlines()[2:]
    at = [c.strip() for c in head.split("|")].index("known (20), %")
    cells = {line.split("|")[1].split("]")[0]: line.split("|")[at].strip() for line in lines if "arxiv" in line}
    assert cells == {" [lora": "37.5", " [hra": "–"}
    assert "known" not in plain + results(frame)
    assert "strata      known 25.0 % [" in "\n".join(summary_lines(records[0], Path("runs/x")))


def test_seeds_that_answered_other_questions_are_not_averaged() -> None:
    """Nor those of other settings under the same name: each group has a row of its own."""
    right = [True] * 30 + [False] * 10
    odd = record(seed=1, right=right)
    odd["test"] = odd["test"] | {"questions_hash": "other"}
    other = record(seed=2, right=right)
    other["science"] = other["science"] | {"prompt": "P", "adapter.r": 9}
    default = record(seed=3, right=right)
    default["science"] = default["science"] | {"adapter.r": 9}
    lost = record(seed=4, status="diverged")
    frame = rows([record(seed=0), record(seed=5), odd, other, default, lost])
    assert sorted(zip(frame["seeds"], frame["accuracy"], frame["diverged"], strict=True)) == [
        (1, 0.75, 0), (1, 0.75, 0), (1, 0.75, 0), (2, 0.25, 1),
    ]  # fmt: skip
    assert frame["cell"].is_unique
    assert frame["section"].nunique() == 4


@pytest.mark.parametrize("records", [[], [record(status="diverged")], [record(status="failed")]], ids=len)
def test_tables_of_no_accuracy(records: list[dict[str, Any]]) -> None:
    text = results(rows(records))
    assert ("lora" in text and "–" in text) if records else text == "No published runs yet."


# -- README and reports -----------------------------------------------------------------------------------------------
def test_only_the_part_between_the_marks_changes() -> None:
    begin, end = "<!-- results:begin (python cost_report.py writes this) -->", "<!-- results:end -->"
    page = f"before {begin[:10]}\n{begin}\nold | table\n{end}\nafter\n"
    changed = fill_block(page, "results", "NEW", "README.md")
    assert changed == page.replace("old | table", "NEW")
    assert fill_block(changed, "results", "NEW", "README.md") == changed
    for bad in ("nothing", begin, page + end, page + begin + "\n", f"{end}\n{begin}\n"):
        with pytest.raises(SystemExit, match=r"^README.md: no single block results; expected .* once each"):
            fill_block(bad, "results", "NEW", "README.md")
    assert r"new \1" in fill_block(page, "results", r"new \1", "README.md")
    again = fill_block(changed, "results", f"{begin}\n{end}", "README.md")  # marks in a text are none
    assert fill_block(again, "results", "NEW", "README.md") == changed


def test_check_fails_on_any_changed_figure(repository: Path) -> None:
    published = factory.write(repository / "runs" / "published", record(seed=0), record("hra"))
    rebuild()
    check()
    readme, csv = repository / "README.md", repository / "reports" / "results.csv"
    assert "25.0 [" in readme.read_text()
    for file, old, new in ((readme, "25.0 [", "26.0 ["), (csv, "1234567", "1234568")):
        text = file.read_text()
        file.write_text(text.replace(old, new, 1))
        with pytest.raises(SystemExit, match=f"{file.name}: not what runs/published gives") as stopped:
            check()
        assert stopped.value.code not in (0, None)
        assert file.read_text() != text  # check changes nothing
        rebuild()
        assert file.read_text() == text
    changed = record(seed=0, right=[True] * QUESTIONS)
    (published / changed["run_id"] / "result.json").write_text(json.dumps(changed))
    with pytest.raises(SystemExit, match=r"README\.md.*results\.csv.*not what"):
        check()


def test_publish_copies_small_files_of_finished_runs(repository: Path, small_job: Any, capsys: Any) -> None:
    """A real run: its published record alone gives the table; nothing is copied when one of the ids is wrong."""
    job = small_job(f"runs_dir={repository / 'local'}")
    name = run(job)["run_id"]
    published = repository / "runs" / "published"
    with pytest.raises(
        BadInput, match=r"^publish=nope: no finished run of this id; expected a folder with result\.json"
    ):
        publish([name, "nope"], str(job.runs_dir))
    assert not published.exists()
    publish([name], str(job.runs_dir))
    assert {p.name for p in (published / name).iterdir()} == {"result.json", "config.yaml", "metrics.jsonl"}
    assert (published / name / "result.json").read_bytes() == (job.runs_dir / name / "result.json").read_bytes()
    shutil.rmtree(job.runs_dir)
    rebuild()
    check()
    assert "not counted" not in capsys.readouterr().out
    show(str(job.runs_dir))
    assert "[lora](" in (repository / "README.md").read_text()
    assert "\nlora  " in capsys.readouterr().out
