"""Differences to the baseline: between what may be compared, with what speaks against them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import adapters as ad
from harness.evaluation.metrics import from_bits, to_nats
from harness.records.record import checked
from harness.report.markdown import markdown_table
from harness.report.names import roles
from harness.report.readme import results
from harness.report.stats import estimate, holm, mcnemar
from harness.report.table import pair_rows, rows
from tests import factory
from tests.report.conftest import RECORDS, chosen


def test_roles_are_variants() -> None:
    found = roles()
    assert {found.baseline, found.floor, found.ceiling} <= ad.VARIANTS.keys()


def test_differences_are_those_of_the_records(frame: pd.DataFrame) -> None:
    """Value by hand, the rest by harness.report.stats on the same bits, Holm over the section."""
    bits = {
        v: np.array([from_bits(r["test"]["correct_bits"], 120) for r in RECORDS if r["variant"] == v and keep(r)])
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


def test_response_losses_are_compared_question_by_question() -> None:
    """Nats of all questions over their tokens; those without a text do not count, and a run without losses has none."""
    rng = np.random.default_rng(1)
    hard, tokens = np.round(rng.gamma(4.0, 10.0, size=60)), 3000
    hard[7] = np.nan
    records = {(v, s): factory.record(v, s, questions=60) for v in ("lora", "hra", "ia3") for s in (0, 1)}
    nats = {key: np.float16(hard + rng.normal(6.0 if key[0] == "hra" else 0.0, 0.5, 60)) for key in records}
    plain = rows(list(records.values()))
    for key in (k for k in records if k[0] != "ia3"):
        made = factory.responses(nats[key].astype(float).tolist(), tokens)
        records[key]["test"] |= made | {"response_loss": float(np.nansum(nats[key].astype(float))) / tokens}
    assert checked(records["hra", 0]) == records["hra", 0]
    frame = rows(list(records.values()))
    hra = chosen(frame, "hra")
    mean = {v: np.mean([np.nansum(nats[v, s].astype(float)) for s in (0, 1)]) / tokens for v in ("lora", "hra")}
    assert (hra["response_loss"], chosen(frame, "lora")["response_loss"]) == pytest.approx((mean["hra"], mean["lora"]))
    assert hra["response_difference"] == pytest.approx(mean["hra"] - mean["lora"])
    assert hra["response_low"] < 6.0 * 59 / tokens < hra["response_high"]  # the truth
    assert hra["response_high"] - hra["response_low"] < 0.05  # unpaired, the questions alone would give 0.3
    assert pd.isna(chosen(frame, "ia3")["response_loss"])
    text = markdown_table("t", frame, {})
    shown = f"{hra['response_difference']:+.4f} [{hra['response_low']:+.4f}, {hra['response_high']:+.4f}]"
    assert f"| {hra['response_loss']:.4f} | {shown} |" in text
    assert "response loss" not in (results(frame) + markdown_table("t", plain, {}))
    records["hra", 0]["test"] |= {"response_tokens": tokens + 1}  # seeds that read other texts
    records["lora", 1]["test"] |= {"response_nats": to_nats(np.roll(nats["lora", 1], 1).tolist())}
    assert "response_loss" not in rows(list(records.values()))
    alone = rows([records["lora", 0]])
    assert f"| {records['lora', 0]['test']['response_loss']:.4f} |" in markdown_table("t", alone, {})


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
    same = rows([*base, *(factory.record("hra", s, skill=2.0) for s in (0, 1))])
    assert same["section"].nunique() == 1
    assert chosen(same, "hra")["difference"] > 0


def test_seeds_of_two_scorers_are_not_averaged() -> None:
    frame = rows([factory.record(seed=0, scorer=1), factory.record(seed=1, scorer=2)])
    assert sorted(frame["section"]) == ["Embedded benchmark", "Embedded benchmark: scorer 2"]
    assert list(frame["seeds"]) == [1, 1]


def test_nothing_inside_the_noise_is_bold() -> None:
    """Bold needs p < 0.05 after Holm and seeds on both sides; a huge difference of single runs is marked instead."""
    lora = [factory.record("lora", s) for s in range(4)]
    near = [factory.record("hra", s, skill=0.1) for s in range(4)]
    far = [factory.record("dora", s, skill=2.5) for s in range(4)]
    text = results(rows([*lora, *near, *far]))
    lines = {v: next(x for x in text.splitlines() if x.startswith(f"| [{v}]")) for v in ("lora", "hra", "dora")}
    assert {v: "**" in line for v, line in lines.items()} == {"lora": False, "hra": False, "dora": True}
    for records in ([lora[0], far[0]], [*lora, far[0]], [lora[0], *far]):
        frame = rows(records)
        row = chosen(frame, "dora")
        assert row["p_holm"] < 0.001 or row["test"] == "t over questions and seeds"
        assert not row["clear"]
        text = markdown_table("t", frame, {})
        for shown in (text.replace("**t**", ""), results(frame).replace("**Embedded benchmark.**", "")):
            assert "**" not in shown
            line = next(x for x in shown.splitlines() if x.startswith("| [dora]"))
            assert " †" in line
        assert "the sign may flip" in text
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
    bits = [np.array(from_bits(r["test"]["correct_bits"], 300)) for r in (two, one)]
    assert tuple(frame.iloc[0][["only_run_right", "only_baseline_right", "p"]]) == mcnemar(*bits)


def test_memory_is_counted_from_the_floor_by_the_same_meter(frame: pd.DataFrame) -> None:
    row = chosen(frame, "lora")
    assert (row["train_overhead_gb"], row["eval_overhead_gb"]) == pytest.approx((0.2, 0.0))
    mixed = rows([factory.record("none", None, None), factory.record(peak="peak_allocated_gb")])
    assert pd.isna(chosen(mixed, "lora")["train_overhead_gb"])
    head, _, *body = [x for x in markdown_table("t", mixed, {}).splitlines() if x.startswith("|")]
    assert "peak GPU train / eval, GB" in head
    assert "peak RSS train / eval, GB" in head
    assert [row.count("0.70 |") for row in body] == [1, 1]


def test_what_speaks_against_a_row_is_said() -> None:
    odd = factory.record(seed=1) | {"code_hash": "other"}
    odd["provenance"] = odd["provenance"] | {"dirty": True}
    odd["health"] = odd["health"] | {"moved": False}
    odd["test"] = odd["test"] | {"truncated": 60}
    frame = rows([factory.record(seed=0), odd])
    text = markdown_table("t", frame, {"lora": {"8bit": "yes", "4bit": "RuntimeError: x"}})
    for said in (
        "different versions of the adapter code",
        "a health check failed",
        "Answers that hit the token limit and count as wrong: `lora` at lr 0.005 10.0 %.",
        "1 of 2 runs used a working tree with uncommitted changes",
        "lora on 4bit: RuntimeError: x.",
    ):
        assert said in text
        assert said in results(frame) or "4bit" in said
    assert "| yes | no |" in text


def test_of_many_cut_rows_the_worst_are_named() -> None:
    cut = [factory.record(lr=lr) for lr in (0.001, 0.002, 0.003, 0.004, 0.005)]
    for n, made in enumerate(cut):
        made["test"] = made["test"] | {"truncated": 100 + 10 * n}
    text = markdown_table("t", rows(cut), {})
    assert "wrong: `lora` at lr 0.005 46.7 %, `lora` at lr 0.004 43.3 %, `lora` at lr 0.003 40.0 %, and 2 more." in text
