"""Accuracy by problem family on the tiny benchmark, from records: what an adapter learnt, and what it unlearnt.

`python -m tools.tiny_breakdown` reads runs/published/; a folder of runs may be given instead.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from harness.evaluation.metrics import from_bits
from harness.records.store import PUBLISHED, read_records
from harness.tiny.problems import test_problems


def by_family(correct_bits: str, total: int) -> dict[str, float]:
    """Family → share of its test questions that were right, for the first `total` questions."""
    right: dict[str, list[bool]] = defaultdict(list)
    for problem, correct in zip(test_problems()[:total], from_bits(correct_bits, total), strict=True):
        right[problem.family.name].append(correct)
    return {name: sum(answers) / len(answers) for name, answers in right.items()}


def main(argv: list[str]) -> None:
    records = [r for r in read_records([Path(argv[0]) if argv else PUBLISHED]).records if r["status"] == "done"]
    tables = {
        r["variant"]: by_family(r["test"]["correct_bits"], r["test"]["total"])
        for r in records
        if r["benchmark"] == "tiny"
    }
    if not tables:
        raise SystemExit("breakdown: no finished runs on the tiny benchmark there.")
    floor = next(
        (t for r, t in zip(records, tables.values(), strict=False) if r["lr"] is None), next(iter(tables.values()))
    )
    print(f"{'% right':18}" + "".join(f"{v.removeprefix('antipasto_')[:9]:>10}" for v in tables))
    for family in sorted(floor, key=lambda f: -floor[f]):
        print(f"{family:18}" + "".join(f"{100 * t.get(family, float('nan')):10.0f}" for t in tables.values()))


if __name__ == "__main__":
    main(sys.argv[1:])
