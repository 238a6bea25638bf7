"""docs/findings.md: what changes on a quantized base, and what without weight decay?"""

from __future__ import annotations

from statistics import median

import numpy as np
from numpy.typing import NDArray

from harness.report.sections import Cell
from harness.report.stats import ALPHA, Estimate, estimate, holm
from tools._rank_order import in_words
from tools._studied import Studied, accuracy, linked, plain_choices, points


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
        there = plain_choices(s) if s.protocol["weight_decay"] == 0 else {}
        pairs = [(there[c.chosen.label], c.chosen) for c in studied.usual if c.chosen.label in there]
        if found := _differences(pairs):
            rho = in_words([accuracy(one) for one, _ in pairs], [accuracy(two) for _, two in pairs])
            lines.append(f"* Order with and without decay: ρ {rho}. Without it, {_in_words(found)}")
    return "\n".join(lines)


Difference = tuple[Cell, Estimate, bool]  # the cell that is changed; it minus the other; whether that is clear


def _differences(pairs: list[tuple[Cell, Cell]]) -> list[Difference]:
    """Changed minus unchanged, over the seeds that both have: runs of one seed share start and batches.

    Clear: p < 0.05 after Holm over all of them, with several such seeds.
    """
    twins = [(changed, values) for changed, plain in pairs if len(values := _by_seed(changed, plain))]
    found = [estimate(values) for _, values in twins]
    corrected = holm([e.p for e in found])
    return [(c, e, p < ALPHA and len(v) > 1) for (c, v), e, p in zip(twins, found, corrected, strict=True)]


def _by_seed(changed: Cell, plain: Cell) -> NDArray[np.float64]:
    """(shared seeds, questions): 1 where the changed run alone is right, −1 where the other alone is, else 0."""
    one, two = ({r["seed"]: right for r, right in zip(c.done, c.right, strict=True)} for c in (changed, plain))
    return np.array([one[seed].astype(float) - two[seed] for seed in one if seed in two])


def _in_words(found: list[Difference]) -> str:
    ordered = sorted(found, key=lambda item: item[1].value)
    lowest, highest = (f"{100 * e.value:+.1f} ({linked(c)})" for c, e, _ in (ordered[0], ordered[-1]))
    clear = ", ".join(f"{linked(c)} {points(e)}" for c, e, is_clear in found if is_clear)
    return (
        f"{len(found)} variants, median difference {100 * median(e.value for _, e, _ in found):+.1f} points, from "
        f"{lowest} to {highest}. Clear: {clear or 'none'}."
    )
