"""reports/bench.md from reports/bench.json: sections that are measured, and a line for each that is not."""

from __future__ import annotations

import statistics
from typing import Any

from harness.report.markdown import grid
from tools import bench_simulated
from tools.bench_steps import GOALS, LARGE_BASIS, LARGE_GOALS, PEAK_TOKENS, REFERENCE, goal, misses, ratio

EVALUATION_GOAL, TRAINING_GOAL = 2.5, 1.2  # end to end, against the plain loop
TRAIN, DECODE = "training step", "decoding"
WHAT = {"train": TRAIN, "decode": DECODE}


def page(measured: dict[str, Any]) -> str:
    """The whole page."""
    writers = {
        "steps float32": ("Training step and decoding, fp32", steps_section),
        "steps bfloat16": ("Training step and decoding, bf16", steps_section),
        "end to end": ("End to end, against a plain PEFT loop", end_to_end_section),
        "compile": ("train.compile", compile_section),
        "simulated": ("Launches and bytes on a simulated GPU", bench_simulated.page),
    }
    parts = [
        "# Speed",
        "Written by `python -m tools.gsm8k_report` from reports/bench.json (`make bench`). Times are compared within "
        "one process: the contestants take turns, round after round, and the median of the rounds' ratios is shown "
        "with the least and the largest.",
    ]
    for key, (title, write) in writers.items():
        parts += [f"## {title}", write(measured[key]) if key in measured else "Not measured yet (`make bench`)."]
    return "\n\n".join(parts) + "\n"


def spread(found: tuple[float, float, float] | None, mark: str = "") -> str:
    """`1.02 [1.01, 1.04]`, marked."""
    return "–" if found is None else f"{found[0]:.2f} [{found[1]:.2f}, {found[2]:.2f}]{mark}"


def where(section: dict[str, Any]) -> str:
    """The machine, and what ran on it."""
    p = section["provenance"]
    threads = f", {p['threads']} thread{'s' * (p['threads'] > 1)}" if not p["cuda"] else ""
    names = {name: p["versions"][name] for name in ("torch", "transformers")} | {"peft": section["peft"]}
    return f"{p['device']}{threads}; {', '.join(f'{name} {version}' for name, version in names.items())}."


# -- steps -------------------------------------------------------------------------------------------------------------
def steps_section(section: dict[str, Any]) -> str:
    """One row for each variant, beside PEFT's implementation; on CUDA with milliseconds and peaks."""
    rows, a = section["rows"], section["arguments"]
    over, cuda = misses(rows), section["provenance"]["cuda"] is not None
    head = ["adapter", f"{TRAIN} ÷ LoRA's", f"{TRAIN} ÷ PEFT's", f"{DECODE} ÷ bare model", f"{DECODE} ÷ PEFT's"]
    head += [f"{TRAIN}, ms", "PEFT's", "token, ms", "PEFT's", "peak, GB", "PEFT's"] if cuda else []
    body, slower = [], []
    for name in [n for n in rows if "(PEFT)" not in n]:
        cells, other = [name], f"{name} (PEFT)"
        for what in GOALS:
            cells.append(spread(ratio(rows, name, REFERENCE[what], what), " (over)" if (name, what) in over else ""))
            beside = ratio(rows, name, other, what)
            slower += [f"{name} ({WHAT[what]})"] if beside and beside[0] > 1 else []
            cells.append(spread(beside, " (slower)" if beside and beside[0] > 1 else ""))
        for what, scale, form in (("train", 1e3, ".1f"), ("decode", 1e3, ".1f"), ("peak_bytes", 1e-9, ".2f")):
            values = [rows.get(n, {}).get(what) for n in (name, other)] if cuda else []
            cells += [format(scale * statistics.median(v), form) if v else "–" for v in values]
        body.append(cells)
    count = len(rows[REFERENCE["decode"]]["decode"])
    lines = [
        f"Qwen3-0.6B's layer shapes, {a['layers']} layers, random weights, {a['dtype']}; a step is a forward and a "
        f"backward pass on 4 × {a['tokens']} tokens, decoding one token for 4 rows. {count} rounds. {where(section)}"
        + (f" Peak: of a step on 4 × {PEAK_TOKENS} tokens, with this project's loss." if cuda else ""),
        f"Goals: {TRAIN} at most {GOALS['train']} × LoRA's and {DECODE} at most {GOALS['decode']} × the bare model's "
        f"(rank {LARGE_BASIS}: {LARGE_GOALS['train']} and {LARGE_GOALS['decode']}); not slower than PEFT's.",
        "\n".join(grid(head, body)),
        _verdict(rows, over, slower),
    ]
    lines += [_profile(p, rows) for p in section["profiles"]]
    lines += [f"Not timed: {label}, which raises `{reason}`" for label, reason in section["failed"].items()]
    return "\n\n".join(lines)


def _verdict(rows: dict[str, Any], over: list[tuple[str, str]], slower: list[str]) -> str:
    missed = [f"{name} ({WHAT[what]}, goal {goal(name, what)})" for name, what in over]
    first = f"Over the goal: {', '.join(missed)}." if missed else "Every variant meets its goals."
    return f"{first} " + (f"Slower than PEFT: {', '.join(slower)}." if slower else "None is slower than PEFT.")


def _profile(profile: dict[str, Any], rows: dict[str, Any]) -> str:
    """What the variant spends more than the reference, operator by operator."""
    name, what = profile["variant"], profile["what"]
    taken = ", ".join(f"`{op}` {ms:+.1f}" for op, ms in profile["operators"].items())
    return f"Profile of {name}, {WHAT[what]}: milliseconds more than {REFERENCE[what]} in one step: {taken}."


# -- end to end, compile -----------------------------------------------------------------------------------------------
def end_to_end_section(section: dict[str, Any]) -> str:
    """How many times faster than the plain loop."""
    a, rounds, (correct, plain) = section["arguments"], section["rounds"], section["correct"]
    speed = [own / other for own, other in (r["train"] for r in rounds)]
    evaluation = [other / own for own, other in (r["evaluate"] for r in rounds)]
    body = []
    for name, found, least in (("training", speed, TRAINING_GOAL), ("evaluation", evaluation, EVALUATION_GOAL)):
        median = statistics.median(found)
        body.append([name, spread((median, min(found), max(found)), "" if median >= least else " (below)"), f"{least}"])
    lines = [
        f"LoRA on the tiny benchmark, {a['steps']} steps and {a['questions']} questions a round, {len(rounds)} rounds. "
        f"The plain loop (tools/_plain.py) trains with PEFT, on shuffled batches, and answers by `generate` in batches "
        f"of 50. Both evaluate the same adapter: {correct} and {plain} answers are correct. {where(section)}",
        "\n".join(grid(["", "times faster than the plain loop", "goal"], body)),
    ]
    return "\n\n".join(lines)


def compile_section(section: dict[str, Any]) -> str:
    """Gain, compile time and difference in the loss for each variant."""
    a, body = section["arguments"], []
    for name, row in section["rows"].items():
        gains = [eager / compiled for eager, compiled in zip(row["eager"], row["compiled"], strict=True)]
        gain = spread((statistics.median(gains), min(gains), max(gains)))
        body.append([name, gain, f"{row['compile']:.0f}", f"{row['difference']:.0e}"])
    what = (
        f"Forward and backward pass of the training loss on Qwen3-0.6B's shapes, {a['layers']} layer(s), 4 × "
        f"{a['tokens']} tokens, {a['rounds']} rounds. Compile time includes the first step; kernels that a variant "
        f"above compiled are not compiled again. {where(section)}"
    )
    head = ["adapter", "eager ÷ compiled", "compile, s", "relative difference of the loss"]
    return "\n\n".join([what, "\n".join(grid(head, body))])
