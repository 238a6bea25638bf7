"""Differences to the baseline, on the same questions."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.report.sections import Cell
from harness.report.stats import ALPHA, detectable, estimate, holm, mcnemar


def baseline_of(cell: Cell, chosen: list[Cell], role: str) -> Cell | None:
    """What a cell is compared with: the baseline in the same quantization, if possible with its own settings.

    If there are several others, the best on validation.
    """
    role_and_base = (role, cell.first["quantization"])
    same = [c for c in chosen if (c.first["variant"], c.first["quantization"]) == role_and_base and c.done]
    worth = lambda c: (c.own_settings, np.mean(list(c.validation.values())), c.name)
    return max(same, key=worth, default=None)


def differences(shown: list[Cell], chosen: list[Cell], role: str) -> dict[str, dict[str, Any]]:
    """Cell of `shown` → its difference to the baseline among `chosen`.

    p_holm: over all of these. clear: that, with both arms' seeds measured. detectable: at Bonferroni's level of all of
    these, the first step of Holm's.
    """
    out: dict[str, dict[str, Any]] = {}
    for cell in shown:
        base = baseline_of(cell, chosen, role)
        if base is None or base is cell or not cell.done:
            continue
        e = estimate(cell.right, base.right)
        single = len(cell.done) == len(base.done) == 1
        out[cell.name] = {
            "baseline": base.name,
            "difference": e.value,
            "difference_low": e.low,
            "difference_high": e.high,
            "p": mcnemar(cell.right[0], base.right[0])[2] if single else e.p,
            "test": "exact McNemar" if single else "t over questions and seeds",
            "seeds_measured": cell.measures_seeds and base.measures_seeds,
            "estimate": e,
            **_response_difference(cell, base),
        }
    for row, p in zip(out.values(), holm([r["p"] for r in out.values()]), strict=True):
        e = row.pop("estimate")
        row["detectable"] = detectable(e.se, e.df, ALPHA / len(out))
        row["p_holm"] = p
        row["clear"] = bool(p < ALPHA and row["seeds_measured"])
    return out


def _response_difference(cell: Cell, base: Cell) -> dict[str, float]:
    """Difference of the response losses, nats per token, with its 95 % interval; nothing where a side has none."""
    own, other = cell.responses, base.responses
    if own is None or other is None or (own.tokens, own.nats.shape[1]) != (other.tokens, other.nats.shape[1]):
        return {}
    e = estimate(own.nats, other.nats)
    names = ("response_difference", "response_low", "response_high")
    return {name: value * own.per_token for name, value in zip(names, (e.value, e.low, e.high), strict=True)}


def pairs(cell: Cell, chosen: list[Cell], role: str) -> list[dict[str, Any]]:
    """Exact McNemar for every run of a cell beside the baseline's run with the same seed."""
    base, out = baseline_of(cell, chosen, role), []
    if base is None or base is cell or not cell.done:
        return []
    of_seed = {r["seed"]: (r, right) for r, right in zip(base.done, base.right, strict=True)}
    for run, right in zip(cell.done, cell.right, strict=True):
        if run["seed"] in of_seed:
            other, other_right = of_seed[run["seed"]]
            only, only_base, p = mcnemar(right, other_right)
            row = {"run": run["run_id"], "baseline_run": other["run_id"]}
            out.append(row | {"only_run_right": only, "only_baseline_right": only_base, "p": p})
    return out
