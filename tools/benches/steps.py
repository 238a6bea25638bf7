"""Training step and decoding of every variant beside PEFT's.

The model has Qwen3-0.6B's layer shapes (hidden 1024, q 1024→2048, v 1024→1024) and random weights. A training step is a
forward and a backward pass; decoding is one token per row with a key/value cache. All are timed in turn, round after
round, in alternating order, each between two timings of the reference, since a machine's speed drifts within a round.
What misses a goal is profiled afterwards. On CUDA also the peak memory of a step on 768 tokens a row, with this
project's loss.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

import adapters as ad
from harness.loss import label_loss_sum
from harness.report.markdown import grid
from tools._shared import variants
from tools.benches._common import rounds, setting, shown, spread, timed
from tools.benches._qwen3 import random_qwen3, ways_to_adapt

WHAT = {"train": "training step", "decode": "decoding"}
REFERENCE = {"train": "lora", "decode": "none"}  # the variant whose time the ratios are relative to
GOALS = {"train": 1.05, "decode": 1.05}
LARGE_BASIS, LARGE_GOALS = 256, {"train": 1.08, "decode": 1.09}  # rank whose bases are 8 % of the layers' products
PEAK_TOKENS = 768
DECODED = 8  # tokens for each training step
# Implementation → seconds, round by round, of what was timed, and of the reference around it (`train reference`, …)
Rows = dict[str, dict[str, Any]]


def measure(args: Any) -> dict[str, Any]:
    """dtype: its name. rows: Rows. failed: PEFT's implementation → why it cannot be timed. profiles: see `profiles`."""
    dtype = args.section.removeprefix("steps ")
    model = random_qwen3(args.layers, args.device, dtype=ad.DTYPES[dtype], vocab_size=args.vocabulary)
    ids = torch.randint(args.vocabulary, (4, args.tokens), device=args.device)
    ways: dict[str, Callable[[], Any]] = {}
    for name in dict.fromkeys([*REFERENCE.values(), *variants(args.variants)]):
        ways |= ways_to_adapt(name, model, ids)
    rows: Rows = {label: {} for label in ways}
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        references = {what: copy.deepcopy(model) for what in REFERENCE}
        for what, other in references.items():
            stack.enter_context(ways_to_adapt(REFERENCE[what], other, ids)[REFERENCE[what]]())
        for turn in rounds(args.rounds, args.minutes):
            order = list(rows)
            for label in reversed(order) if turn % 2 else order:
                try:
                    with ways[label]():
                        times = time_all(model, references, ids, args.repeats)
                except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
                    if "(PEFT)" not in label:
                        raise
                    failed[label] = str(error).splitlines()[0]
                    del rows[label]
                    continue
                for what, seconds in times.items():
                    rows[label].setdefault(what, []).append(seconds)
    return {"dtype": dtype, "rows": rows, "failed": failed, "profiles": profiles(rows, ways, model, ids)}


# -- what is timed -----------------------------------------------------------------------------------------------------
def time_all(model: Any, references: dict[str, Any], ids: Any, repeats: int) -> dict[str, float]:
    """Seconds of a training step (where anything is trained) and of one decoded token; on CUDA also a peak in bytes."""
    seconds: dict[str, float] = {}
    if any(p.requires_grad for p in model.parameters()):
        cuda = ids.device.type == "cuda"
        train_step(model, ids if cuda else ids[:1, :8])  # what only the first call does
        ours, lora = partial(train_step, model, ids), partial(train_step, references["train"], ids)
        seconds["train"], seconds["train reference"] = _between(ours, lora, repeats, ids.device)
        if cuda:
            seconds["peak_bytes"] = _peak(model, references, ids)
    with decoding(model, ids) as own, decoding(references["decode"], ids) as bare:
        seconds["decode"], seconds["decode reference"] = _between(own, bare, DECODED * repeats, ids.device)
    return seconds


def _between(own: Callable[[], None], other: Callable[[], None], count: int, device: Any) -> tuple[float, float]:
    """Mean seconds of so many steps, and of the reference's, of which one half runs before and one half after."""

    def steps(step: Callable[[], None], times: int) -> float:
        def run() -> None:
            for _ in range(times):
                step()

        return timed(run, device)[0]

    half = -(-count // 2)
    before, middle, after = steps(other, half), steps(own, count), steps(other, half)
    return middle / count, (before + after) / (2 * half)


def _peak(model: Any, references: dict[str, Any], ids: Any) -> float:
    """Bytes at the height of a step on long rows, without the references' weights."""
    long = ids.repeat(1, PEAK_TOKENS // ids.shape[1])
    torch.cuda.reset_peak_memory_stats(ids.device)
    label_loss_sum(model, long, torch.arange(1, long.numel(), device=ids.device)).backward()
    peak = torch.cuda.max_memory_allocated(ids.device)
    model.zero_grad(set_to_none=True)
    beside = [t for other in references.values() for t in (*other.parameters(), *other.buffers())]
    return float(peak - sum(t.numel() * t.element_size() for t in beside))


def train_step(model: Any, ids: Any) -> None:
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    model.zero_grad(set_to_none=True)


@contextmanager
def decoding(model: Any, ids: Any) -> Iterator[Callable[[], None]]:
    """A function that decodes the next token of each row, after a prompt of 16 tokens and one decoded token."""
    with torch.inference_mode(), ad.frozen(model):
        out = model(input_ids=ids[:, :16], use_cache=True)
        cache, token = out.past_key_values, out.logits[:, -1:].argmax(-1)

        def step() -> None:
            nonlocal token
            token = model(input_ids=token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)

        step()
        yield step


# -- ratios and goals --------------------------------------------------------------------------------------------------
def ratio(rows: Rows, label: str, other: str, what: str) -> tuple[float, float, float] | None:
    """Median, least and largest over the rounds of time / other's time; None where one of the two was not timed.

    Both are taken relative to the reference around them.
    """
    relative = [
        [own / reference for own, reference in zip(row[what], row[f"{what} reference"], strict=True)]
        for row in (rows.get(label, {}), rows.get(other, {}))
        if what in row
    ]
    if len(relative) < 2:
        return None
    if other == REFERENCE[what]:
        return spread(relative[0])
    return spread(own / peft for own, peft in zip(*relative, strict=True))


def goal(variant: str, what: str) -> float:
    return (LARGE_GOALS if getattr(ad.VARIANTS[variant].Config(), "r", 0) >= LARGE_BASIS else GOALS)[what]


def own_names(rows: Rows) -> list[str]:
    return [name for name in rows if "(PEFT)" not in name]


def misses(rows: Rows) -> list[tuple[str, str]]:
    """(variant, what) where the median is above the goal."""
    ratios = {(name, what): ratio(rows, name, REFERENCE[what], what) for name in own_names(rows) for what in GOALS}
    return [(name, what) for (name, what), r in ratios.items() if r and r[0] > goal(name, what)]


def slower_than_peft(rows: Rows) -> list[tuple[str, str]]:
    """(variant, what) where the median is above that of PEFT's implementation."""
    ratios = {(name, what): ratio(rows, name, f"{name} (PEFT)", what) for name in own_names(rows) for what in GOALS}
    return [key for key, r in ratios.items() if r and r[0] > 1]


def profiles(rows: Rows, ways: dict[str, Callable[[], Any]], model: Any, ids: Any) -> list[dict[str, Any]]:
    """For each miss: the five operators that take most milliseconds more than in the reference (own CPU time)."""
    profiled = []
    for name, what in misses(rows):
        times = []
        for label in (name, REFERENCE[what]):
            with ways[label]():
                times.append(_profile(model, ids, what))
        more = {op: ms - times[1].get(op, 0.0) for op, ms in times[0].items()}
        top = sorted(more, key=more.__getitem__, reverse=True)[:5]
        profiled.append({"variant": name, "what": what, "operators": {op: more[op] for op in top}})
    return profiled


def _profile(model: Any, ids: Any, what: str) -> dict[str, float]:
    """Operator → milliseconds of its own CPU time in one step."""
    with decoding(model, ids) if what == "decode" else nullcontext(partial(train_step, model, ids)) as step:
        step()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            step()
    return {e.key: e.self_cpu_time_total / 1000 for e in profiler.key_averages()}


# -- the page ----------------------------------------------------------------------------------------------------------
def page(section: dict[str, Any]) -> str:
    """One row for each variant, beside PEFT's implementation; on CUDA with milliseconds and peaks."""
    rows, a, cuda = section["rows"], section["arguments"], section["provenance"]["cuda"] is not None
    train, decode = WHAT.values()
    over, slower = misses(rows), slower_than_peft(rows)
    head = ["adapter", f"{train} ÷ LoRA's", f"{train} ÷ PEFT's", f"{decode} ÷ bare model", f"{decode} ÷ PEFT's"]
    head += [f"{train}, ms", "PEFT's", "token, ms", "PEFT's", "peak, GB", "PEFT's"] if cuda else []
    body = []
    for name in own_names(rows):
        cells = [name]
        for what in GOALS:
            cells.append(shown(ratio(rows, name, REFERENCE[what], what), " (over)" if (name, what) in over else ""))
            beside = ratio(rows, name, f"{name} (PEFT)", what)
            cells.append(shown(beside, " (slower)" if (name, what) in slower else ""))
        body.append(cells + (_absolute(rows, name) if cuda else []))
    lines = [
        f"Qwen3-0.6B's layer shapes, {a['layers']} layers, random weights, {section['dtype']}; a step is a forward and "
        f"a backward pass on 4 × {a['tokens']} tokens, decoding one token for 4 rows. "
        f"{len(rows[REFERENCE['decode']]['decode'])} rounds. {setting(section)}"
        + (f" Peak: of a step on 4 × {PEAK_TOKENS} tokens, with this project's loss." if cuda else ""),
        f"Goals: {train} at most {GOALS['train']} × LoRA's and {decode} at most {GOALS['decode']} × the bare model's "
        f"(rank {LARGE_BASIS}: {LARGE_GOALS['train']} and {LARGE_GOALS['decode']}); not slower than PEFT's.",
        "\n".join(grid(head, body)),
        _verdict(over, slower),
    ]
    lines += [_profile_line(p) for p in section["profiles"]]
    lines += [f"Not timed: {label}, which raises `{reason}`" for label, reason in section["failed"].items()]
    return "\n\n".join(lines)


def _absolute(rows: Rows, name: str) -> list[str]:
    """Medians of this project's implementation and of PEFT's: milliseconds of a step and a token, and the peak."""
    cells = []
    for what, scale, form in (("train", 1e3, ".1f"), ("decode", 1e3, ".1f"), ("peak_bytes", 1e-9, ".2f")):
        values = [rows.get(label, {}).get(what) for label in (name, f"{name} (PEFT)")]
        cells += [format(scale * statistics.median(v), form) if v else "–" for v in values]
    return cells


def _verdict(over: list[tuple[str, str]], slower: list[tuple[str, str]]) -> str:
    missed = ", ".join(f"{name} ({WHAT[what]}, goal {goal(name, what)})" for name, what in over)
    behind = ", ".join(f"{name} ({WHAT[what]})" for name, what in slower)
    goals = f"Over the goal: {missed}." if over else "Every variant meets its goals."
    return f"{goals} " + (f"Slower than PEFT: {behind}." if slower else "None is slower than PEFT.")


def _profile_line(profile: dict[str, Any]) -> str:
    """What the variant spends more than the reference, operator by operator."""
    name, what = profile["variant"], profile["what"]
    taken = ", ".join(f"`{op}` {ms:+.1f}" for op, ms in profile["operators"].items())
    return f"Profile of {name}, {WHAT[what]}: milliseconds more than {REFERENCE[what]} in one step: {taken}."
