"""What a reader sees first: names and places that others' experiments leave alone, and README's generated blocks."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from harness.evaluation.metrics import from_bits
from harness.report.names import family, row_name, usual_adapter, usual_lr
from harness.report.readme import main_sections, readme, results, terminal_tables
from harness.report.table import by_section, pair_rows, rows
from tests import factory

BLOCKS = "\n".join(
    f"<!-- {name}:begin{more} (x) -->\n<!-- {name}:end -->"
    for name, more in {"figure": "", "status": "", "example": " hra", "results": "", "families": ""}.items()
)


def records() -> list[dict[str, Any]]:
    """The references, and three variants at three rates of which the middle one is hra's default."""
    rate = usual_lr("hra", "tiny") or 0.0
    made = [factory.record("none", None, None, skill=-2.5), factory.record("full", lr=1e-3, skill=2.0)]
    for variant, skill in (("lora", 0.0), ("hra", -0.5), ("ia3", -1.0)):
        made += [factory.record(variant, 0, k * rate, skill=skill - abs(k - 3)) for k in (1 / 3, 1.0, 3.0)]
    return made


def test_an_experiment_of_ones_own_leaves_the_main_table_alone() -> None:
    """Its place, title and names stay, whatever else is published; what differs is named."""
    alone, short = rows(records()), {"steps": 40, "eval_limit": 50}
    own = [factory.record(v, s, 0.01, asked="fewer", questions=50, **short) for v in ("lora", "hra") for s in range(9)]
    own += [factory.record("lora", s, 0.01, skill=3.0, model="0wn") for s in (0, 1)]
    own.append(factory.record("lora", 0, 0.01, skill=3.0, rank=16, **{"adapter.targets": "all"}))
    own += [factory.record(v, 0, 0.01, quantization="4bit") for v in ("hra", "lora")]
    own.append(factory.record("lora", 0, 0.01, quantization="4bit", skill=3.0, rank=16))
    frame = rows([*own, *records()])
    titles = list(dict.fromkeys(frame["section"]))
    assert titles == [
        "Embedded benchmark",
        "Embedded benchmark: 4bit base",
        "Embedded benchmark: other adapter settings",
        "Embedded benchmark: other adapter settings, 4bit base",
        "Embedded benchmark: first 50 questions, 40 steps",
        "tiny-0wn",
    ]
    assert [title for title, _ in main_sections(frame)] == ["Embedded benchmark"]
    main_rows = frame[frame["section"] == titles[0]].reset_index(drop=True)
    plain = lambda f: f.astype(object).where(f.notna(), None)
    pd.testing.assert_frame_equal(plain(main_rows), plain(alone))
    before, after = (results(f).splitlines() for f in (alone, frame))
    assert before[:-1] == after[:-1]
    assert after[-1].startswith("Every column, and 5 tables with other settings: ")
    text = terminal_tables(frame)
    main, apart = text.split("== Other settings")
    assert main.startswith("Embedded benchmark. For reference, not ranked: `full` ")
    assert [apart.find(f"\n{title}.") > 0 for title in titles] == [False] + [True] * 5
    assert "hra 4bit" in apart


def test_each_row_is_compared_with_the_baseline_of_its_own_settings() -> None:
    """However good another rank of it is; where it has no run in that quantization, with none."""
    made = [factory.record("lora", s, 0.01, skill=0.0) for s in range(3)]
    made += [factory.record("lora", s, 0.01, skill=3.0, rank=64) for s in range(3)]
    made += [factory.record("hra", s, 0.01, skill=1.0, rank=2) for s in range(3)]
    made += [factory.record("hra", s, 0.01, skill=1.0, quantization="8bit") for s in range(3)]
    frame = rows(made)
    own = frame[(frame["variant"] == "lora") & (frame["name"] == "lora")].iloc[0]
    compared = dict(zip(frame["section"].str.cat(frame["name"], ": "), frame["baseline"], strict=True))
    title = "Embedded benchmark: other adapter settings"
    assert {k for k, v in compared.items() if v == own["cell"]} == {f"{title}: lora (r 64)", f"{title}: hra (r 2)"}
    assert {k for k, v in compared.items() if pd.isna(v)} == {
        "Embedded benchmark: lora", "Embedded benchmark: 8bit base: hra",
    }  # fmt: skip
    assert set(pair_rows(made)["baseline_run"].str.contains("__r8__")) == {True}


def test_the_main_table_is_the_one_with_most_plain_rows() -> None:
    """Not that of another base of which more quantized rows or other ranks are published."""
    other = [factory.record(v, 0, 0.01, quantization=q) for v in ("lora", "hra", "ia3") for q in ("4bit", "8bit")]
    for r in other:
        r["science"] = r["science"] | {"model": "sha256:other"}
    (title, main), *_ = by_section(rows([*other, *records()])).items()
    assert title == "Embedded benchmark"
    assert set(main["quantization"]) == {"none"}


def test_a_variant_with_its_own_settings_has_its_plain_name() -> None:
    science = {f"adapter.{k}": v for k, v in usual_adapter("lora", "tiny").items()}
    assert row_name("lora", "tiny", science | {"lr": 7.0}) == "lora"
    assert row_name("lora", "tiny", science | {"adapter.r": 64, "adapter.layers": None}) == "lora (r 64)"
    assert row_name("lora", "gsm8k", science) == "lora (alpha 16, r 8)"
    assert row_name("eva", "tiny", {"calibration_examples": 128}) == "eva"
    assert row_name("eva", "tiny", {"calibration_examples": 64}) == "eva (calibration examples 64)"
    assert row_name("antipasto", "tiny", {"calibration_examples": 128}) == "antipasto (calibration examples 128)"
    assert row_name("of another branch", "tiny", science) == "of another branch"
    assert [family(name) for name in ("dora", "IA3-FF", "lora--llama-3.2-3B-rank32", "new")] == [
        "low rank", "gains", "low rank", "other",
    ]  # fmt: skip


def test_readmes_blocks_are_those_of_the_records() -> None:
    """References stand apart; the best of a family is best on validation; the example is the default's run."""
    made = records()
    for r in made:
        r["test"]["strata"] = factory.strata(from_bits(r["test"]["correct_bits"], 300))
    better = factory.record("oft", 0, 0.01, skill=9.0)  # on test
    better["valid"] = factory.scores([False] * 100)
    text = readme(BLOCKS, rows([*made, better]), [*made, better], {"Embedded benchmark": "reports/plots/x.svg"})
    lines = text.splitlines()
    assert "![Embedded benchmark: accuracy against trained parameters](reports/plots/x.svg)" in lines
    assert "* Embedded benchmark: 5 variants trained, each with 1 seed; 300 questions." in lines
    (default,) = [r for r in made if r["variant"] == "hra" and r["lr"] == usual_lr("hra", "tiny")]
    assert f"    {default['run_id']}" in lines
    table = [line for line in lines if line.startswith("| [") and "](" in line]
    assert [line.split("]")[0] for line in table] == ["| [oft", "| [lora", "| [hra", "| [ia3"]
    assert all(line.count("|") == 6 for line in table)
    best = [
        [c.strip() for c in line.split("|")[1:-1]]
        for line in lines
        if line.startswith(("| best of", "| base", "| train"))
    ]
    assert [(row[0], row[1]) for row in best] == [
        ("trains nothing", "none"), ("best of gains", "ia3"), ("best of rotations", "hra"), ("baseline", "lora"),
        ("trains every weight", "full"),
    ]  # fmt: skip
    known = made[0]["test"]["strata"]["known"]["accuracy"]
    assert float(best[0][3]) == pytest.approx(100 * known, abs=0.051)
    assert readme(text, rows([]), [], {}).count("No published runs yet.") == 5
