"""docs/findings.md agrees with the records, says what is missing, and counts rightly where the answer is known."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from harness.evaluation.metrics import to_bits
from tests import factory
from tools import findings
from tools._chart import Series, chart
from tools._studied import NOT_RUN, Studied
from tools.answers import budgets, changed, elsewhere, levels, rates, sizes


def record(variant: str, share: float, nats: float, **more: Any) -> dict[str, Any]:
    """A run that answers this share of 400 questions, with this response loss on test and validation."""
    found = factory.record(variant, right=[n < 400 * share for n in range(400)], **more)
    if found["status"] != "done":
        return found
    test = found["test"] | factory.responses([nats] * 400, 400)
    valid = found["valid"] | factory.responses([nats] * 100, 100)
    return found | {"test": test, "valid": valid}


def test_the_page_is_what_the_records_give() -> None:
    findings.main(["check=true"])


def test_without_records_every_block_says_so(tmp_path: Path) -> None:
    texts = findings.build(tmp_path)
    assert list(texts) == [findings.PAGE]  # no figure
    blocks = re.findall(r"<!-- (\w+):begin .*-->\n(.*?)<!-- \1:end -->", texts[findings.PAGE], re.DOTALL)
    assert len(blocks) == 12
    assert {content for _, content in blocks} == {f"{NOT_RUN}\n"}


def test_page_is_at_most_two_pages_and_links_to_records_that_are_there() -> None:
    text = findings.PAGE.read_text()
    seen = [line for line in text.splitlines() if line and not line.startswith("<!--")]
    words = re.sub(r"\]\([^)]*\)|[|`*#-]", " ", "\n".join(seen)).split()
    assert len(seen) <= 120
    assert len(words) <= 1800
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert [link for link in links if not (findings.PAGE.parent / link).exists()] == []


VARIANTS = ("lora", "dora", "hra", "ia3", "road")


def test_response_loss_against_accuracy() -> None:
    """Five adapters, of which the best two swap places by loss: d = (1, 1, 0, 0, 0), ρ = 1 − 6·2/120."""
    shares, nats = (0.9, 0.8, 0.6, 0.4, 0.2), (0.6, 0.5, 0.7, 0.8, 0.9)
    found = Studied([record(v, s, n) for v, s, n in zip(VARIANTS, shares, nats, strict=True)])  # type: ignore[misc]
    text, svg = rates.loss(found)
    assert "ρ 0.90 [" in text
    assert "the same order in 9 of the 10 pairs more" in text
    assert "for 0 of 5 adapters." in text
    assert all(f">{v}</text>" in svg for v in VARIANTS)


def test_levels_part_where_the_difference_is_clear() -> None:
    shares = {"lora": 0.8, "dora": 0.79, "hra": 0.5, "ia3": 0.49}
    found = Studied([record(v, s, 1.0, seed=n) for v, s in shares.items() for n in range(3)])  # type: ignore[misc]
    text = levels.levels(found)
    assert text.startswith(
        "Standard deviation between seeds, points: median 0.0, largest 0.0 (`lora`, 80.0 to 80.0 %). At"
    )
    rows = text.splitlines()[4:]
    assert [re.findall(r"\[(\w+)\]", row) for row in rows] == [["lora", "dora"], ["hra", "ia3"]]


def test_refinements_are_compared_with_what_they_refine() -> None:
    shares = {"lora": 0.8, "dora": 0.8, "pissa": 0.4, "ia3": 0.1, "antipasto_rot": 0.9}
    runs = [record(v, s, 1.0, seed=n, params=5) for v, s in shares.items() for n in range(3)]
    lines = levels.refinements(Studied(runs)).splitlines()  # type: ignore[arg-type]
    assert [re.findall(r"\[(\w+)\]", line) for line in lines] == [["lora", "pissa"], ["lora", "dora"]]
    assert ", clear: [pissa](" in lines[0]
    assert ") -40.0 [" in lines[0]
    assert ", not clear: [dora](" in lines[1]
    assert ") +0.0 [" in lines[1]


def test_another_base_is_compared_by_order() -> None:
    """Five adapters in reverse order; the one that ran here alone is not compared."""
    shares = (0.9, 0.8, 0.6, 0.4, 0.2)
    runs = [record(v, s, 1.0) for v, s in zip([*VARIANTS, "eva"], [*shares, 0.5], strict=True)]
    for v, s in zip(VARIANTS, shares, strict=True):
        other = record(v, 1 - s, 1.0, params=round(1000 * (1 - s)))
        other["science"] = other["science"] | {"model": "sha256:other"}
        runs.append(other | {"run_id": other["run_id"] + "__other"})
    text = elsewhere.bases(Studied(runs))  # type: ignore[arg-type]
    assert text.startswith("* ρ -1.00 [-1.00, -1.00] (n = 5); better half not computed for n = 2 ")
    assert "by their numbers of parameters alone 1.00 [1.00, 1.00] (n = 5). " in text
    assert "Of the pairs more than 5 points apart there, 0 of 10 have the same order here." in text
    assert "Not run there: eva. Sign of the difference to `lora` turned, here / there (intervals there: " in text
    assert re.search(r"\) -70\.0 \[[^]]+\] / \+70\.0 \[[^]]+\]\.$", text)
    assert elsewhere.bases(Studied(runs[:6])) == ""  # type: ignore[arg-type]
    assert elsewhere.bases(Studied([*runs[:5], runs[6] | {"variant": "eva"}])) == ""  # type: ignore[arg-type]
    quantized = [r | {"quantization": "4bit", "run_id": f"{r['run_id']}__4"} for r in runs[6:]]
    assert elsewhere.bases(Studied([*runs, *quantized])) == text  # type: ignore[arg-type]


def test_quantized_bases_are_compared_at_the_same_rate() -> None:
    runs = [record("lora", 0.8, 1.0, seed=n) for n in range(3)]
    runs += [record("lora", 0.2, 1.0, seed=n, quantization="4bit") for n in range(3)]
    runs += [record("lora", 0.8, 1.0, seed=n, quantization="8bit") for n in range(3)]
    runs += [record("lora", 0.1, 1.0, lr=0.5, quantization="8bit")]  # of no plain run
    lines = changed.quantized(Studied(runs)).splitlines()  # type: ignore[arg-type]
    assert lines[0].startswith("* 8bit: 1 variants, median difference +0.0 points")
    assert lines[0].endswith("Clear: none.")
    assert "4bit: 1 variants, median difference -60.0 points" in lines[1]
    assert lines[1].endswith("].") and "none." not in lines[1]  # noqa: PT018
    single = changed.quantized(Studied([runs[0], *(r for r in runs if r["quantization"] == "4bit")]))  # type: ignore[arg-type]
    assert single.endswith("Clear: none.")


def test_without_weight_decay_each_is_compared_at_its_best_rate() -> None:
    """ia3 gains 40 points at a rate of its own; another decay and another base are not what is asked."""
    runs = [record(v, 0.8 - n / 10, 1.0, seed=s) for n, v in enumerate(VARIANTS) for s in range(3)]

    def changed_to(run: dict[str, Any], **settings: Any) -> dict[str, Any]:
        name = "__".join([run["run_id"], *map(str, settings.values())])
        return run | {"science": run["science"] | settings, "run_id": name}

    off = [changed_to(r, weight_decay=0.0) for r in runs if r["variant"] != "ia3"]
    for seed in range(3):
        best = record("ia3", 0.9, 1.0, seed=seed, lr=0.5)
        best["valid"] |= {"accuracy": 0.99, "correct": 99}
        off += [changed_to(r, weight_decay=0.0) for r in (best, record("ia3", 0.1, 1.0, seed=seed, lr=0.6))]
    text = changed.undecayed(Studied([*runs, *off]))  # type: ignore[arg-type, list-item]
    assert text.startswith("* Order with and without decay: ρ 0.")
    assert "Without it, 5 variants, median difference +0.0 points, from +0.0 ([" in text
    assert " to +40.0 ([ia3](" in text
    assert re.findall(r"\[(\w+)\]", text.split("Clear: ")[1]) == ["ia3"]
    more = [changed_to(r, weight_decay=0.5) for r in runs] + [changed_to(r, weight_decay=0.0, model="x") for r in runs]
    assert changed.undecayed(Studied([*runs, *off, *more])) == text  # type: ignore[arg-type, list-item]
    assert changed.undecayed(Studied([*runs, *more])) == ""  # type: ignore[arg-type, list-item]


def sized(variant: str, size: int, share: float, **more: Any) -> dict[str, Any]:
    other = {"adapter.block": size} if variant == sizes.DENSE else {"adapter.lora_rank": size}
    return record(variant, share, 1.0, params=1000 * size, **other, **more)


def test_cores_are_paired_by_size_and_failures_counted() -> None:
    runs = [record("none", 0.3, 2.0, lr=None, seed=None)]
    runs += [
        sized(v, size, 0.8, lr=0.1, seed=n) for v in (sizes.DENSE, sizes.LOW_RANK) for size in (2, 4) for n in (0, 1)
    ]
    for n in (0, 1):
        runs += [
            sized(sizes.DENSE, 4, 0.25, lr=1.0, seed=n),
            sized(sizes.DENSE, 2, 0.9, lr=1.0, seed=n, status="diverged"),
        ]
        runs += [sized(sizes.LOW_RANK, size, 0.5, lr=1.0, seed=n) for size in (2, 4)]
        runs += [sized(sizes.LOW_RANK, 4, 0.5, lr=10.0, seed=n)]  # no block ran at 10
        runs += [sized(sizes.LOW_RANK, 7, 0.8, lr=0.1, seed=n)]  # no block of this size
    runs += [sized(v, 4, 0.9, lr=0.01) for v in (sizes.DENSE, sizes.LOW_RANK)]  # single seeds are not compared
    of = {"update": [1.0, 3.0], "core": [0.5, 0.25], "share": [0.1, 0.1], "science_hash": runs[1]["science_hash"]}
    text, svg = sizes.cores(Studied(runs), {runs[1]["run_id"]: of, runs[2]["run_id"]: of})  # type: ignore[arg-type]
    pairs = [line.split(" |")[0] for line in text.splitlines() if re.match(r"\| \d", line)]
    assert pairs == ["| 2,000 / 2,000", "| 4,000 / 4,000"]
    assert re.findall(r">(\w+, lr [\d.]+)</text>", svg) == [
        f"{w}, lr {lr}" for lr in (0.1, 1) for w in ("block", "core")
    ]
    assert [line.count(",") for line in re.findall(r'<polyline [^>]*points="([^"]+)"', svg)] == [2, 2, 1, 2]
    assert "at their best rates 0 / 0 of 2 (after Holm 0 / 0); at 0.1 0 / 0 of 2; at 1 1 / 0 of 1." in text
    assert text.count("80.0 (lr 0.1, edge)") == 4
    alone, _ = sizes.cores(Studied([r for r in runs if r["lr"] in (None, 0.1)]), {})  # type: ignore[arg-type, misc]
    assert alone.count("80.0 (lr 0.1, the only one)") == 4
    assert f"| {sizes.DENSE} | 0.1 | 0 of 4 | 3 | 0.1 |" in text  # the other's science has changed
    assert f"| {sizes.DENSE} | 1 | 4 of 4 | – | – |" in text
    assert f"| {sizes.LOW_RANK} | 10 |" not in text


def test_sizes_are_listed_from_the_smallest_with_the_last_step() -> None:
    runs = [record("lora", s, 1.0, rank=r, params=100 * r) for r, s in ((2, 0.3), (4, 0.79), (8, 0.8), (16, 0.7))]
    text, svg = sizes.sizes(Studied(runs))  # type: ignore[arg-type]
    assert re.findall(r"\[([^]]+)\]\([^)]*\) (\d+\.\d)", text) == [
        ("r 2", "30.0"),
        ("r 4", "79.0"),
        ("default", "80.0"),
        ("r 16", "70.0"),
    ]
    assert text.startswith("* `lora`: [r 2](")
    assert " 70.0 (1,600). Largest minus next: -10.0 [-" in text
    assert text.endswith("Learning rates tried per size: 1.")
    assert svg.count("<circle") == 4


def test_smollm2_is_compared_by_loss() -> None:
    ours = (0.5, 0.6, 0.7, 0.8, 0.9)
    runs = [record(v, 0.5, n) for v, n in zip(VARIANTS, ours, strict=True)]
    for v, n in zip(VARIANTS, ours, strict=True):
        runs += [record(v, 0.0, 2 + d - n, lr=lr, model="smollm2_135m") for d, lr in ((0, 0.01), (1, 0.001))]
    text = elsewhere.smollm2(Studied(runs))  # type: ignore[arg-type]
    assert "ρ -1.00 [-1.00, -1.00] (n = 5)" in text
    assert re.findall(r"\[(\w+)\]\([^)]*\) (\d\.\d+)", text) == [("road", "1.100"), ("lora", "1.500")]
    assert "Seeds there: 1. Loss there from [road](" in text
    assert text.endswith(" nats per token; standard deviation between adapters 0.158.")  # of 1.1 to 1.5
    twin = record("ia3", 0.0, 1.8, lr=0.01, model="smollm2_135m", seed=1)  # beside 1.2
    with_twin = elsewhere.smollm2(Studied([*runs, twin]))  # type: ignore[arg-type, list-item]
    assert "Seeds there: 1–2. " in with_twin
    assert with_twin.endswith(", between seeds of one 0.424.")
    more = [record(v, 0.0, 9.0, model="smollm2_135m", quantization="4bit") for v in VARIANTS]
    more += [record("lora", 0.0, 0.1, model="smollm2_135m", steps=9)]
    assert elsewhere.smollm2(Studied([*runs, *more])) == text  # type: ignore[arg-type]


def test_budgets_name_the_better_and_larger_ones() -> None:
    """hra leads the smaller ia3 by 1 point on validation, too little; lora by 3; full is not compared."""
    shares = {"ia3": (0.6, 0.6, 100), "hra": (0.6, 0.61, 200), "lora": (0.6025, 0.63, 300), "full": (0.9, 0.9, 900)}
    runs: list[Any] = []
    for variant, (share, valid, params) in shares.items():
        for seed in range(3):
            made = record(variant, share, 1.0, seed=seed, params=params)
            made["valid"] |= {"accuracy": valid, "correct": round(100 * valid)}
            runs.append(made)
    runs += [record("ia3", 0.5, 1.0, seed=seed, params=100, quantization="4bit") for seed in range(3)]
    counted = {"lora": {"train_peak_bytes": 200.0}, "ia3": {"train_peak_bytes": 180.0}}
    *lines, _, before = budgets.budgets(Studied(runs), counted).splitlines()[2:]
    rows = [line.strip("| ").split(" | ") for line in lines]
    assert [re.findall(r"\[(\w+)\]", row[0]) for row in rows] == [["ia3"], ["lora"]]
    assert [row[1] for row in rows] == ["100", "300"]
    assert [row[3] for row in rows] == ["0.90", "1.00"]
    assert [row[5:7] for row in rows] == [["3", "0.005 (1)"]] * 2
    assert [row[7] for row in rows] == ["50.0", "–"]
    assert {row[8] for row in rows} == {f"{median(r['forgetting']['nats'] for r in runs[:3]):+.2f}"}
    assert [row[9] for row in rows] == ["none shown", "`ia3`, 100"]
    assert f"{runs[0]['forgetting']['nats_off']:.2f} nats/token" in before
    for share, smallest in ((0.3, "`ia3`, 100"), (0.66, "none shown")):  # ia3 is better; it is 6 points worse
        other = [record("lora", share, 1.0, seed=s, params=300) | {"valid": runs[6]["valid"]} for s in range(3)]
        (row,) = [r for r in budgets.budgets(Studied([*runs[:3], *other]), {}).splitlines() if "[lora]" in r]
        assert row.endswith(f"| {smallest} |")
    one = budgets.budgets(Studied([runs[0], runs[6]]), {}).splitlines()
    assert [r.split(" | ")[-1] for r in one if "| [" in r] == ["none shown |", "none shown |"]  # single seeds
    assert budgets.budgets(Studied(runs[:3]), counted) == ""


def test_rates_are_compared_with_the_best_of_their_adapter() -> None:
    """The adapters lose 10, 20 and 40 points a decade below their best; lora has a second rate that is as good."""
    runs: list[Any] = []
    for variant, best, lost in (("lora", 0.01, 0.1), ("hra", 0.1, 0.2), ("ia3", 1.0, 0.4)):
        for factor, share in ((0.1, 0.8 - lost), (1.0, 0.8), (10.0, 0.0)):
            made = record(variant, 0.5, 1.0, lr=factor * best)
            made["valid"] |= {"accuracy": share, "correct": round(100 * share)}
            runs.append(made)
    also = record("lora", 0.5, 1.0, lr=0.009)
    runs.append(also | {"valid": also["valid"] | {"accuracy": 0.79, "correct": 79}})
    text, svg = rates.rates(Studied(runs))
    lines = text.splitlines()
    drop = "* Median drop in accuracy from the best rate, points: "
    assert lines[0] == f"{drop}20.0 at a tenth (3 adapters), 80.0 at ten times (3 adapters)."
    assert re.search(r"keeps the rate in \d+ % of draws and moves test accuracy by a standard deviation of 0\.0 ", text)
    far = [record("lora", 0.5, 1.0, lr=lr) for lr in (0.01, 1.0, 100.0)]
    assert "Median" not in rates.rates(Studied([*far]))[0]  # type: ignore[list-item]
    assert svg.count("<polyline") == 4
    assert svg.count(">median</text>") == 1


def test_how_firm_the_choice_of_a_rate_is() -> None:
    """Two rates that answer halves of the validation questions are chosen by the draw; a far better third ends that."""

    def run(lr: float, share: float, right: list[bool], **more: Any) -> dict[str, Any]:
        made = record("lora", share, 1.0, lr=lr, **more)
        if made["status"] == "done":
            bits = {"correct_bits": to_bits(right), "total": 100, "correct": sum(right), "accuracy": sum(right) / 100}
            made["valid"] |= bits
        return made

    halves = [n < 50 for n in range(100)], [n >= 50 for n in range(100)]
    even = [run(0.01, 0.4, halves[0]), run(0.1, 0.6, halves[1]), run(1.0, 0.9, [], status="diverged")]
    draws = r"in (\d+) % of draws and moves test accuracy by a standard deviation of ([\d.]+) points"
    ((same, spread),) = re.findall(draws, rates.rates(Studied(even))[0])  # type: ignore[arg-type]
    assert 45 <= int(same) <= 60  # a tie goes to the smaller rate
    assert float(spread) == pytest.approx(10.0, abs=0.2)  # 40 or 60 %
    firm = [*even, run(0.03, 0.5, [True] * 100)]
    assert re.findall(draws, rates.rates(Studied(firm))[0]) == [("100", "0.0")]  # type: ignore[arg-type]


def test_chart_places_values_and_names() -> None:
    svg = chart("T", "x", [Series("a<b", [(1.0, 10.0), (100.0, 30.0)])])
    (points,) = re.findall(r'points="([^"]+)"', svg)
    (x1, y1), (x2, y2) = (map(float, p.split(",")) for p in points.split())
    assert x1 < x2
    assert y1 > y2
    assert "a&lt;b" in svg
    band = chart("T", "x", [Series("a", [(1.0, 10.0), (100.0, 30.0)], [(5.0, 12.0), (20.0, 35.0)])])
    (area,) = re.findall(r'<polygon class="band" points="([^"]+)"', band)
    corners = [tuple(map(float, p.split(","))) for p in area.split()]
    assert [c[0] for c in corners] == [corners[0][0], corners[1][0], corners[1][0], corners[0][0]]
    assert corners[0][1] > corners[3][1] > corners[1][1] > corners[2][1]  # 5, 12, 20, 35 from below
