"""Training step and decoding of every variant beside PEFT's, in one process: part of `make bench`.

python -m tools.bench_steps
    variants=all         or <name>,<name>; lora and none, which the ratios are relative to, are always timed
    dtype=float32        or bfloat16
    layers=4 vocabulary=8192
    tokens=128           per row of a training batch of four rows
    rounds=9 minutes=4   at most so many rounds; none begins after so many minutes
    repeats=1            steps timed in a row (for decoding eight times as many)
    peft=true            also PEFT's implementation of a variant, if it has one
    device=auto force=false   force: also where the section is up to date
    out=reports/bench.json    its section `steps <dtype>`

The model has Qwen3-0.6B's layer shapes (hidden 1024, q 1024→2048, v 1024→1024) and random weights. A training step is a
forward and a backward pass; decoding is one token per row with a key/value cache. All are timed in turn, round after
round, in alternating order. What misses a goal is profiled afterwards. On CUDA also the peak memory of a step on 768
tokens a row, with this project's loss.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from harness.cli.arguments import parse
from tools._shared import one_of, rounds, timed, variants, write_section

REFERENCE = {"train": "lora", "decode": "none"}  # the variant whose time the ratios are relative to
GOALS = {"train": 1.05, "decode": 1.05}
LARGE_BASIS, LARGE_GOALS = 256, {"train": 1.08, "decode": 1.09}  # rank whose bases are 8 % of the layers' products
PEAK_TOKENS = 768
Rows = dict[str, dict[str, Any]]  # implementation → its seconds, round by round, by what was timed


@dataclass
class Arguments:
    variants: list[str] = field(default_factory=lambda: ["all"])
    dtype: str = "float32"
    layers: int = 4
    vocabulary: int = 8192
    tokens: int = 128
    rounds: int = 9
    minutes: int = 4
    repeats: int = 1
    peft: bool = True
    device: str = "auto"
    out: str = "reports/bench.json"
    force: bool = False


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    from adapters import DTYPES
    from harness.device import usable_device

    one_of("dtype", args.dtype, DTYPES)
    variants(args.variants)
    args.device = usable_device(args.device)
    write_section(args, f"steps {args.dtype}", __file__, lambda: measure(args))


def measure(args: Arguments) -> dict[str, Any]:
    """rows: Rows. failed: PEFT's implementation → why it cannot be timed. profiles: see `profiles`."""
    import torch

    from adapters import DTYPES
    from tools._qwen3 import random_qwen3, ways_to_adapt

    model = random_qwen3(args.layers, args.device, dtype=DTYPES[args.dtype], vocab_size=args.vocabulary)
    ids = torch.randint(args.vocabulary, (4, args.tokens), device=args.device)
    ways: dict[str, Callable[[], Any]] = {}
    for name in dict.fromkeys([*REFERENCE.values(), *variants(args.variants)]):
        ways |= ways_to_adapt(name, model, ids, peft=args.peft)
    rows: Rows = {label: {} for label in ways}
    failed: dict[str, str] = {}
    for turn in rounds(args.rounds, args.minutes):
        order = [label for label in ways if label not in failed]
        for label in reversed(order) if turn % 2 else order:
            try:
                with ways[label]():
                    times = time_both(model, ids, args)
            except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
                if "(PEFT)" not in label:
                    raise
                failed[label] = str(error).splitlines()[0]
                continue
            for what, seconds in times.items():
                rows[label].setdefault(what, []).append(seconds)
    rows = {label: row for label, row in rows.items() if label not in failed}
    return {"rows": rows, "failed": failed, "profiles": profiles(rows, ways, model, ids)}


# -- what is timed -----------------------------------------------------------------------------------------------------
def time_both(model: Any, ids: Any, args: Arguments) -> dict[str, float]:
    """Seconds of a training step (where anything is trained) and of one decoded token; on CUDA also a peak in bytes."""
    import torch

    from harness.loss import label_loss_sum

    found, cuda = {}, ids.device.type == "cuda"
    if any(p.requires_grad for p in model.parameters()):
        train_step(model, ids if cuda else ids[:1, :8])  # what only the first call does
        found["train"] = _seconds(partial(train_step, model, ids), args.repeats, ids.device)
        if cuda:
            long = ids.repeat(1, PEAK_TOKENS // args.tokens)
            torch.cuda.reset_peak_memory_stats(ids.device)
            label_loss_sum(model, long, torch.arange(1, long.numel(), device=ids.device)).backward()
            found["peak_bytes"] = torch.cuda.max_memory_allocated(ids.device)
            model.zero_grad(set_to_none=True)
    with decoding(model, ids) as step:
        found["decode"] = _seconds(step, 8 * args.repeats, ids.device)
    return found


def _seconds(step: Callable[[], None], count: int, device: Any) -> float:
    """Mean of so many steps in a row."""

    def steps() -> None:
        for _ in range(count):
            step()

    return timed(steps, device)[0] / count


def train_step(model: Any, ids: Any) -> None:
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    model.zero_grad(set_to_none=True)


@contextmanager
def decoding(model: Any, ids: Any) -> Iterator[Callable[[], None]]:
    """A function that decodes the next token of each row, after a prompt of 16 tokens and one decoded token."""
    import torch

    import adapters as ad

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
    """Median, least and largest over the rounds of time / other's time; None where one of the two was not timed."""
    pair = [rows.get(name, {}).get(what) for name in (label, other)]
    if None in pair:
        return None
    found = [own / yardstick for own, yardstick in zip(*pair, strict=True)]
    return statistics.median(found), min(found), max(found)


def goal(variant: str, what: str) -> float:
    import adapters as ad

    return (LARGE_GOALS if getattr(ad.VARIANTS[variant].Config(), "r", 0) >= LARGE_BASIS else GOALS)[what]


def misses(rows: Rows) -> list[tuple[str, str]]:
    """(variant, what) where the median is above the goal."""
    own = [(name, what) for name in rows if "(PEFT)" not in name for what in GOALS]
    ratios = {(name, what): ratio(rows, name, REFERENCE[what], what) for name, what in own}
    return [(name, what) for (name, what), r in ratios.items() if r and r[0] > goal(name, what)]


def profiles(rows: Rows, ways: dict[str, Callable[[], Any]], model: Any, ids: Any) -> list[dict[str, Any]]:
    """For each miss: the five operators that take most milliseconds more than in the reference (own CPU time)."""
    found = []
    for name, what in misses(rows):
        times = []
        for label in (name, REFERENCE[what]):
            with ways[label]():
                times.append(_profile(model, ids, what))
        more = {op: ms - times[1].get(op, 0.0) for op, ms in times[0].items()}
        top = sorted(more, key=more.__getitem__, reverse=True)[:5]
        found.append({"variant": name, "what": what, "operators": {op: more[op] for op in top}})
    return found


def _profile(model: Any, ids: Any, what: str) -> dict[str, float]:
    """Operator → milliseconds of its own CPU time in one step."""
    import torch

    with ExitStack() as stack:
        train = partial(train_step, model, ids)
        step = stack.enter_context(decoding(model, ids)) if what == "decode" else train
        step()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            step()
    return {e.key: e.self_cpu_time_total / 1000 for e in profiler.key_averages()}


if __name__ == "__main__":
    main(sys.argv[1:])
