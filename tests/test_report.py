"""The report compares only what can be compared, prints nothing bold inside the noise, and is the same each time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import adapters as ad
from harness.errors import BadInput
from harness.paths import ROOT
from harness.records.store import read_records
from harness.report.build import README, REFERENCE, build, files
from harness.report.markdown import markdown
from harness.report.others import read_peft, references
from harness.report.plots import _style, figures, pareto
from harness.report.publish import check, rebuild, show
from harness.report.sections import roles
from harness.report.stats import estimate, holm, mcnemar
from harness.report.table import pair_rows, rows

RECORDS = factory.study(seeds=3, questions=120)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return rows(RECORDS)


def chosen(frame: pd.DataFrame, variant: str) -> Any:
    (row,) = [r for _, r in frame[frame["chosen"]].iterrows() if r["variant"] == variant]
    return row


def test_roles_are_variants() -> None:
    roles = roles()
    assert {roles.baseline, roles.floor} <= ad.VARIANTS.keys()


# -- learning rates ----------------------------------------------------------------------------------------------------
def test_rates_are_chosen_on_validation_with_an_equal_budget() -> None:
    """By the seeds that every rate ran: three lucky seeds more at another rate, or any test result, change nothing."""
    rate = {lr: factory.record("hra", 0, lr, skill=s) for lr, s in ((1e-3, -1.0), (3e-3, 0.5), (1e-2, -0.5))}
    valid = {lr: r["valid"]["accuracy"] for lr, r in rate.items()}
    best = max(valid, key=lambda lr: valid[lr])
    assert best == 3e-3
    more = [factory.record("hra", s, 1e-2, skill=4.0) for s in (1, 2, 3)]
    for records in ([*rate.values()], [*rate.values(), *more]):
        for r in records:  # a test set on which the worst rate shines
            share = 1.0 if r["lr"] == 1e-3 else 0.0
            right = [share == 1.0] * r["test"]["total"]
            r["test"] |= {"correct_bits": factory.to_bits(right), "accuracy": share, "correct": sum(right)}
        frame = rows(records)
        row = chosen(frame, "hra")
        assert (row["lr"], bool(row["edge"]), row["rates"]) == (3e-3, False, 3)
        assert {r["lr"]: r["valid_common"] for _, r in frame.iterrows()} == valid
    assert set(frame["valid_seeds"]) == {1}


def test_edges_and_divergence_are_said(frame: pd.DataFrame) -> None:
    dplr, ia3 = chosen(frame, "antipasto_dplr"), chosen(frame, "ia3")
    assert (dplr["lr"], bool(dplr["edge"])) == (1e-2, True)
    assert (ia3["lr"], bool(ia3["edge"]), ia3["curve_diverged"]) == (3e-3, False, 1)
    lost = frame[(frame["variant"] == "ia3") & (frame["lr"] == 1e-2)].iloc[0]
    assert (lost["valid_common"], lost["seeds"], lost["diverged"]) == (0.0, 0, 1)
    text = markdown(frame, {})
    assert "| 0.01 (edge) |" in text
    assert "[ia3](https://arxiv.org/abs/2205.05638) (1 diverged)" in text
    assert "a better one may lie outside" in text


def test_a_rate_at_which_all_runs_diverge_is_never_chosen() -> None:
    lost = [factory.record("hra", s, 1e-2, status="diverged") for s in (0, 1)]
    poor = factory.record("hra", 0, 1e-3, skill=-4.0)
    failed = factory.record("hra", 0, 3e-3, status="failed")
    row = chosen(rows([*lost, poor, failed]), "hra")
    assert (row["lr"], row["curve_diverged"], row["curve_failed"]) == (1e-3, 2, 1)
    assert chosen(rows(lost), "hra")["seeds"] == 0


# -- comparisons -------------------------------------------------------------------------------------------------------
def test_differences_are_those_of_the_records(frame: pd.DataFrame) -> None:
    """Value by hand, the rest by harness.stats on the same bits, Holm over the section."""
    bits = {
        v: np.array(
            [sections.from_bits(r["test"]["correct_bits"], 120) for r in RECORDS if r["variant"] == v and keep(r)]
        )
        for v in ("lora", "hra")
    }
    hra = chosen(frame, "hra")
    assert hra["difference"] == pytest.approx(bits["hra"].mean() - bits["lora"].mean())
    e = estimate(bits["hra"], bits["lora"])
    assert (hra["difference_low"], hra["difference_high"], hra["p"]) == (e.low, e.high, e.p)
    compared = frame[frame["difference"].notna()]
    assert len(compared) == 8
    assert list(compared["p_holm"]) == pytest.approx(holm(list(compared["p"])))
    assert pd.isna(chosen(frame, "lora")["difference"])


def keep(record: dict[str, Any]) -> bool:
    return record["lr"] == 3e-3


@pytest.mark.parametrize(
    "other",
    [{"asked": "others"}, {"scorer": 2}, {"steps": 800}, {"prompt": "P"}, {"benchmark": "b"}, {"quantization": "4bit"}],
    ids=lambda o: next(iter(o)),
)
def test_what_cannot_be_compared_is_not(other: dict[str, Any]) -> None:
    """Other questions, scorer, steps, prompt or benchmark: a section of its own; other quantization: no difference."""
    base = [factory.record("lora", s, skill=0.0) for s in (0, 1)]
    odd = [factory.record("hra", s, skill=2.0, **other) for s in (0, 1)]
    if "benchmark" in other:
        odd = [r | {"benchmark": "b", "run_id": r["run_id"].replace("tiny-tiny", "b-tiny")} for r in odd]
    frame = rows([*base, *odd, factory.record("none", None, None)])
    assert pd.isna(chosen(frame, "hra")["difference"])
    assert pd.isna(chosen(frame, "hra")["p_holm"])
    if "quantization" not in other:
        titles = [
            t for t in frame["section"].unique() if set(frame[frame["section"] == t]["variant"]) & {"lora", "hra"}
        ]
        assert len(titles) == 2
        assert len(set(titles)) == 2
    same = rows([*base, *(factory.record("hra", s, skill=2.0) for s in (0, 1))])
    assert same["section"].nunique() == 1
    assert chosen(same, "hra")["difference"] > 0


def test_seeds_of_two_scorers_are_not_averaged() -> None:
    with pytest.raises(SystemExit, match=r"seeds were scored by different versions of the scorer\. Score them again"):
        rows([factory.record(seed=0, scorer=1), factory.record(seed=1, scorer=2)])


def test_nothing_inside_the_noise_is_bold() -> None:
    """Bold needs p < 0.05 after Holm and seeds on both sides; a huge difference of single runs is marked instead."""
    lora = [factory.record("lora", s) for s in range(4)]
    near = [factory.record("hra", s, skill=0.1) for s in range(4)]
    far = [factory.record("dora", s, skill=2.5) for s in range(4)]
    text = markdown(rows([*lora, *near, *far]), {})
    lines = {v: next(x for x in text.splitlines() if x.startswith(f"| [{v}]")) for v in ("lora", "hra", "dora")}
    assert {v: "**" in line for v, line in lines.items()} == {"lora": False, "hra": False, "dora": True}
    for records in ([lora[0], far[0]], [*lora, far[0]], [lora[0], *far]):
        frame = rows(records)
        row = chosen(frame, "dora")
        assert row["p_holm"] < 0.001 or row["test"] == "crossed bootstrap"
        assert not row["clear"]
        text = markdown(frame, {})
        assert "**" not in text.replace("**tiny-tiny**", "")
        assert "p < 0.001 †" in text or " †" in text
        assert "another seed may turn it round" in text
    assert chosen(rows([lora[0], far[0]]), "dora")["test"] == "exact McNemar"


def test_bold_is_rare_where_nothing_differs() -> None:
    """Twenty studies of six variants that are all the same: at most a tenth of them print anything bold."""
    bold = 0
    for n in range(20):
        names = ("lora", "dora", "hra", "pissa", "ia3", "eva")
        records = [factory.record(v, 10 * n + s, questions=200) for v in names for s in range(3)]
        bold += rows(records)["clear"].fillna(False).astype(bool).any()
    assert bold <= 2


def test_pairs_of_runs_by_mcnemar() -> None:
    records = [factory.record(v, s) for v in ("lora", "hra") for s in (0, 1)] + [factory.record("hra", 7)]
    frame = pair_rows(records)
    assert len(frame) == 2  # seed 7 has no partner
    one, two = (r for r in records[:3:2])
    bits = [np.array(sections.from_bits(r["test"]["correct_bits"], 300)) for r in (two, one)]
    assert tuple(frame.iloc[0][["only_run_right", "only_baseline_right", "p"]]) == mcnemar(*bits)


def test_memory_is_counted_from_the_floor_by_the_same_meter(frame: pd.DataFrame) -> None:
    row = chosen(frame, "lora")
    assert (row["train_overhead_gb"], row["eval_overhead_gb"]) == pytest.approx((0.2, 0.0))
    mixed = rows([factory.record("none", None, None), factory.record(peak="peak_allocated_gb")])
    assert pd.isna(chosen(mixed, "lora")["train_overhead_gb"])
    head, _, *body = [x for x in markdown(mixed, {}).splitlines() if x.startswith("|")]
    assert "peak GPU train / eval, GB" in head
    assert "peak RSS train / eval, GB" in head
    assert [row.count("0.70 |") for row in body] == [1, 1]


def test_what_speaks_against_a_row_is_said() -> None:
    odd = factory.record(seed=1) | {"code_hash": "other"}
    odd["provenance"] = odd["provenance"] | {"dirty": True}
    odd["health"] = odd["health"] | {"moved": False}
    odd["test"] = odd["test"] | {"truncated": 60}
    text = markdown(rows([factory.record(seed=0), odd]), {"lora": {"8bit": "yes", "4bit": "RuntimeError: x"}})
    for said in (
        "different versions of the adapter code",
        "a health check failed",
        "10.0 % of its answers were cut off",
        "1 of 2 runs were made from a working tree with uncommitted changes",
        "lora on 4bit: RuntimeError: x.",
    ):
        assert said in text
    assert "| yes | no |" in text


# -- reports/ ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def repository(tmp_path: Path, monkeypatch: Any) -> Path:
    """README and an empty reports/, so that tests change none of the repository's."""
    (tmp_path / "README.md").write_bytes(README.read_bytes())
    for name, path in (("ROOT", ""), ("README", "README.md"), ("REPORTS", "reports"), ("PUBLISHED", "runs/published")):
        monkeypatch.setattr(publish, name, tmp_path / path)
    build = build
    monkeypatch.setattr(publish, "build", lambda: build(tmp_path / "runs" / "published"))
    return tmp_path


def test_check_holds_every_file_to_the_records(repository: Path, monkeypatch: Any, capsys: Any) -> None:
    """One byte anywhere, a file too few or a figure too many fails; half-written and foreign records are only named."""
    published = factory.write(repository / "runs" / "published", *RECORDS)
    rebuild()
    check()
    made = sorted(p for p in (repository / "reports").rglob("*") if p.is_file())
    assert {p.suffix for p in made} == {".csv", ".md", ".html", ".svg"}
    assert len(made) == 8
    texts = build()
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
    stale = repository / "reports" / "plots" / "old-loss.svg"
    stale.write_text("")
    with pytest.raises(SystemExit, match=r"old-loss\.svg: not what"):
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
def test_with_no_run_and_with_one(repository: Path, count: int) -> None:
    factory.write(repository / "runs" / "published", *RECORDS[1 : 1 + count])
    rebuild()
    check()
    text = (repository / "reports" / "index.html").read_text()
    assert ("No published runs yet." in text) == (count == 0)
    assert len(list((repository / "reports").rglob("*.svg"))) == 3 * count  # no curve of learning rates
    assert "Published by lora-lite" in text


def test_another_process_writes_the_same_bytes(tmp_path: Path, frame: pd.DataFrame) -> None:
    """Other hash seed, time zone, locale and working matplotlibrc; no date and no version in any file."""
    published = factory.write(tmp_path / "published", *RECORDS)
    here = files(rows(read_records([published]).records), RECORDS, [published])
    code = f"""
import json, pathlib
from harness import publish, table
folder = pathlib.Path({str(published)!r})
found = read_records([folder])
print(json.dumps(files(rows(found.records), found.records, [folder])))
"""
    (tmp_path / "matplotlibrc").write_text("font.size: 20\naxes.grid: True\n")
    odd = {
        "PYTHONHASHSEED": "7",
        "TZ": "Asia/Tokyo",
        "LC_ALL": "C",
        "MATPLOTLIBRC": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | odd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout)
    assert [n for n in here if here[n] != there.get(n)] == []
    assert here.keys() == there.keys()
    for name, text in here.items():
        assert not re.search(r"matplotlib\.org|Matplotlib v|20\d\d-\d\d-\d\dT", text), name


def test_every_column_is_in_the_long_tables(frame: pd.DataFrame) -> None:
    made = files(frame, RECORDS, [])
    for head in (
        "variant", "8-bit", "4-bit", "test accuracy", "seeds", "difference to lora", "lr", "trained parameters",
        "file, kB", "peak RSS train / eval", "RSS above untrained", "tokens/s", "attach, s",
        "added MACs/token", "forgetting",
    ):  # fmt: skip
        assert head in made["results.md"]
        assert head in made["index.html"]
    assert {"p_holm", "detectable", "train_overhead_gb", "unhealthy", "valid_common"} <= set(
        made["results.csv"].splitlines()[0].split(",")
    )


# -- figures -----------------------------------------------------------------------------------------------------------
@given(st.lists(st.tuples(st.integers(1, 9).map(float), st.integers(0, 9).map(float)), max_size=12))
def test_pareto_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    front = pareto(points)
    beaten = [p for p in points if any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)]
    assert set(front) == set(points) - set(beaten)
    assert front == sorted(front)


def test_figures_can_be_told_apart_without_colour(frame: pd.DataFrame) -> None:
    """A marker for each of as many variants as there are, and every variant named in every figure."""
    style = _style(sorted(ad.VARIANTS))
    assert len({marker for _, marker in style.values()}) == len(style)
    drawn = figures("t", frame, {c: [(1, 1.0), (2, 0.5)] for c in frame["cell"]}, None)
    assert drawn.keys() == {"accuracy", "learning_rate", "loss", "cost"}
    for name, svg in drawn.items():
        missing = [v for v in factory.SKILLS if not re.search(rf">{v}[ :<]", svg)]
        assert missing == [], name


# -- theirs ------------------------------------------------------------------------------------------------------------
def peft_result(**train: Any) -> dict[str, Any]:
    """As github.com/huggingface/peft writes them, with a field that nobody knows."""
    last = {
        "step": 5000,
        "test accuracy": 636 / 1319,
        "train loss": 0.6,
        "train total tokens": 4198051,
        "forgetting": 0.05,
    }
    return {
        "run_info": {
            "experiment_name": "lora/llama-3.2-3B-rank32",
            "total_time": 1993.5,
            "train_config": {
                "model_id": "meta-llama/Llama-3.2-3B",
                "max_steps": 5000,
                "optimizer_kwargs": {"lr": 1e-4},
            },
            "peft_config": {"peft_type": "LORA", "r": 32},
            "from the future": [1],
        },
        "train_info": {
            "accelerator_memory_max": 22273851392,
            "train_time": 1796.0,
            "file_size": 36715216,
            "num_trainable_params": 9175040,
            "status": "success",
            "metrics": [{"step": 250, "valid accuracy": 0.3}, last],
        }
        | train,
        "meta_info": {"system_info": {"gpu": "NVIDIA L40S"}},
    }


def test_pefts_results_stand_beside_ours(tmp_path: Path, repository: Path, capsys: Any) -> None:
    """In a section of their own, marked, compared with nothing; files that are none are named."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    old = peft_result(cuda_memory_max=1e10)
    del old["train_info"]["accelerator_memory_max"]  # the field's name until 2025
    good = {"new": peft_result(), "old": old, "lost": peft_result(status="failed", metrics=[])}
    broken: dict[str, Any] = {
        "ours": RECORDS[0],
        "list": [1],
        "null": None,
        "empty": peft_result(metrics=[]),
        "odd": peft_result(metrics=[{"test accuracy": 63.2}]),
        "text": peft_result(num_trainable_params="many"),
    }
    for name, content in (good | broken).items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "half.json").write_text(json.dumps(peft_result())[:500])
    (folder / "README.md").write_text("")
    frame, skipped = read_peft(folder)
    assert sorted(frame["cell"]) == sorted(good)
    assert sorted(line.split(":")[0] for line in skipped) == sorted(f"{n}.json" for n in [*broken, "half"])
    new, first = frame.set_index("cell").loc["new"], frame.set_index("cell").loc["old"]
    assert (new["accuracy"], new["params"], new["lr"], new["forgetting"]) == (636 / 1319, 9175040, 1e-4, 0.05)
    assert (new["low"], new["high"]) == pytest.approx((0.4553, 0.5092), abs=1e-4)
    assert (new["peak_train_gb"], first["peak_train_gb"]) == pytest.approx((22.273851392, 10.0))
    assert frame["difference"].isna().all()

    runs = factory.write(repository / "local", factory.record(), factory.record("hra", skill=1.0))
    show(str(runs), str(folder))
    assert "not counted: half.json" in capsys.readouterr().out
    local = repository / "reports" / "local"
    for name in ("results.md", "index.html"):
        assert "theirs, not run here" in (local / name).read_text()
        assert "lora/llama-3.2-3B-rank32 r32 (1 failed)" in (local / name).read_text()
    assert any("theirs" in p.name for p in (local / "plots").glob("*.svg"))
    rebuild()
    assert "theirs, not run here): meta" not in (repository / "reports" / "results.md").read_text()


@pytest.mark.parametrize("what", ["nothing there", "empty"])
def test_a_wrong_folder_is_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        BadInput, match=r"^compare: no JSON files, got '.*'; expected a folder of PEFT's result files\.$"
    ):
        read_peft(tmp_path / what)


def test_published_figures_name_their_source() -> None:
    """Each with its own table, best first, Wilson's interval added; the figures are the file's."""
    found = references(REFERENCE)
    assert len(found) == len(list(REFERENCE.glob("*.csv"))) == 2
    lite, peft = found
    assert lite.source == "https://github.com/wassname/lora-lite"
    assert lite.body[0][:2] == ["LoRA", "63.2 [60.6, 65.8]"]
    assert len(lite.body) == 12
    assert len(peft.body) == 63
    values = [float(row[1].split()[0]) for row in peft.body]
    assert values == sorted(values, reverse=True)
    assert references(Path("/nowhere")) == []
