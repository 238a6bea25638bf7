"""Accuracy by problem family on the tiny benchmark, from records: what an adapter learned, and what it unlearned.

python -m tools.tiny_breakdown
    runs_dir=runs/published    where the records are
    quantization=none          of the base

One column per row of the results table (each variant at its chosen learning rate, first seed), best first.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass

from harness.cli.arguments import parse
from harness.errors import refuse
from harness.evaluation.metrics import from_bits
from harness.paths import under_root
from harness.records.store import read_records
from harness.report.names import roles
from harness.report.table import rows
from harness.tiny.problems import test_problems


@dataclass
class Arguments:
    runs_dir: str = "runs/published"
    quantization: str = "none"


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    kind = ("tiny", args.quantization, "done")
    records = read_records([under_root(args.runs_dir)]).records
    runs = {r["run_id"]: r for r in records if (r["benchmark"], r["quantization"], r["status"]) == kind}
    if not runs:
        remedy = f"Run python train.py benchmark=tiny quantization={args.quantization} first."
        raise refuse("runs_dir", "no finished runs on this benchmark and base", got=args.runs_dir, remedy=remedy)
    frame = rows(list(runs.values()))
    own_settings = frame["section"] == frame["section"].iloc[0]  # the first table: no other base, no other settings
    shown = [runs[name] for name in frame[frame["chosen"] & own_settings]["run"]]
    accuracy = [by_family(r["test"]["correct_bits"], r["test"]["total"]) for r in shown]
    for head in ("variant", "rank"):
        print(f"{head:18}" + "".join(f"{str(r.get(head) or '').removeprefix('antipasto_')[:9]:>10}" for r in shown))
    floor = next((a for r, a in zip(shown, accuracy, strict=True) if r["variant"] == roles().floor), accuracy[-1])
    for family in sorted(floor, key=floor.__getitem__, reverse=True):
        print(f"{family:18}" + "".join(f"{100 * a.get(family, float('nan')):10.0f}" for a in accuracy))


def by_family(correct_bits: str, total: int) -> dict[str, float]:
    """Family → share of its test questions answered correctly, among the first `total` questions."""
    right: dict[str, list[bool]] = defaultdict(list)
    for problem, correct in zip(test_problems()[:total], from_bits(correct_bits, total), strict=True):
        right[problem.family.name].append(correct)
    return {name: sum(answers) / len(answers) for name, answers in right.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
