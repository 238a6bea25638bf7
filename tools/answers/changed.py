"""docs/findings.md: what changes on a quantized base, and what without weight decay?"""

from __future__ import annotations

from statistics import median

from harness.report.learning_rates import curves
from harness.report.sections import Cell
from harness.report.stats import ALPHA, Estimate, estimate, holm
from tools._rank_order import in_words
from tools._studied import Studied, accuracy, linked, points


def quantized(studied: Studied) -> str:
    """Accuracy on an 8-bit and a 4-bit base minus that on the plain one, at the same learning rate."""
    done = {
        (c.first["variant"], c.first["quantization"], c.first["lr"]): c
        for c in studied.main
        if c.done and c.trained and c.own_settings
    }
    pairs = [(c, done[v, "none", lr]) for (v, q, lr), c in done.items() if q != "none" and (v, "none", lr) in done]
    found = _differences(pairs)
    lines = []
    for base in sorted({c.first["quantization"] for c, _, _ in found}, reverse=True):
        own = [item for item in found if item[0].first["quantization"] == base]
        lines.append(f"* {base}: {_in_words(own)}")
    return "\n".join(lines)


def undecayed(studied: Studied) -> str:
    """Accuracy without weight decay minus that with it, each at its best learning rate of those tried."""
    lines = []
    for s in studied.beside("weight_decay"):
        if s.protocol["weight_decay"] != 0:
            continue
        there = {
            c.chosen.label: c.chosen for c in curves(s.cells) if c.chosen.plain and c.chosen.trained and c.chosen.done
        }
        pairs = [(there[c.chosen.label], c.chosen) for c in studied.usual if c.chosen.label in there]
        rho = in_words([accuracy(one) for one, _ in pairs], [accuracy(two) for _, two in pairs])
        lines.append(f"* Order with and without decay: ρ {rho}. Without it, {_in_words(_differences(pairs))}")
    return "\n".join(lines)


Difference = tuple[Cell, Estimate, bool]  # the cell that is changed; it minus the other; whether that is clear


def _differences(pairs: list[tuple[Cell, Cell]]) -> list[Difference]:
    """Changed minus unchanged. Clear: p < 0.05 after Holm over all of them, with several seeds on both sides."""
    found = [estimate(changed.right, plain.right) for changed, plain in pairs]
    clear = [p < ALPHA for p in holm([e.p for e in found])]
    several = [changed.measures_seeds and plain.measures_seeds for changed, plain in pairs]
    return [(c, e, a and b) for (c, _), e, a, b in zip(pairs, found, clear, several, strict=True)]


def _in_words(found: list[Difference]) -> str:
    lowest, highest = (f([(e.value, n) for n, (_, e, _) in enumerate(found)])[1] for f in (min, max))
    ends = [f"{linked(found[n][0])} {points(found[n][1])}" for n in (lowest, highest)]
    clear = ", ".join(f"{linked(c)} {points(e)}" for c, e, is_clear in found if is_clear)
    return (
        f"{len(found)} variants, median difference {100 * median(e.value for _, e, _ in found):+.1f} points, lowest "
        f"{ends[0]}, highest {ends[1]}. Clear: {clear or 'none'}."
    )
