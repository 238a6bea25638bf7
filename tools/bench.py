"""Measures one section of reports/bench.json, which reports/bench.md is written from: `make bench`.

python -m tools.bench section=<name>
    section=<name>      steps float32, steps bfloat16, end to end, compile or simulated
    variants=all        or <name>,<name>; what the ratios are relative to is always measured
    device=auto         of steps and compile; the others use the CPU
    force=false         force: also if the section is up to date
    out=reports/bench.json

Sizes of the two `steps` sections:
    layers=4 vocabulary=8192
    tokens=128          per row of a training batch of four rows
    rounds=9 minutes=12 at most so many rounds; none begins after so many minutes
    repeats=1           steps timed in a row (for decoding eight times as many)
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

from harness.cli.arguments import parse
from harness.device import usable_device
from tools._shared import one_of, variants
from tools.benches import compile, end_to_end, launches, steps
from tools.benches._common import write_section

SECTIONS: dict[str, tuple[str, Any]] = {  # name → heading, and the module that measures it and writes about it
    "steps float32": ("Training step and decoding, fp32", steps),
    "steps bfloat16": ("Training step and decoding, bf16", steps),
    "end to end": ("End to end, against a plain PEFT loop", end_to_end),
    "compile": ("train.compile", compile),
    "simulated": ("Launches and bytes on a simulated GPU", launches),
}


@dataclass
class Arguments:
    section: str
    variants: list[str] = field(default_factory=lambda: ["all"])
    device: str = "auto"
    force: bool = False
    out: str = "reports/bench.json"
    layers: int = 4
    vocabulary: int = 8192
    tokens: int = 128
    rounds: int = 9
    minutes: int = 12
    repeats: int = 1


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    _, bench = SECTIONS[one_of("section", args.section, SECTIONS)]
    variants(args.variants, trains_base=bench is not steps)
    args.device = usable_device(args.device) if bench in (steps, compile) else "cpu"
    write_section(args, bench)


def page(measured: dict[str, Any]) -> str:
    """reports/bench.md: the sections that are measured, and a line for each that is not."""
    parts = [
        "# Speed",
        "Written by `python -m tools.gsm8k_report` from reports/bench.json (`make bench`). Times are compared within "
        "one process: the contestants take turns, round after round, and the median of the rounds' ratios is shown "
        "with the least and the largest.",
    ]
    for name, (heading, bench) in SECTIONS.items():
        text = bench.page(measured[name]) if name in measured else "Not measured yet (`make bench`)."
        parts += [f"## {heading}", text]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
