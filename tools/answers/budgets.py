"""docs/findings.md: which adapter for which number of trained numbers, and what else it costs."""

from __future__ import annotations

from statistics import mean, median
from typing import TYPE_CHECKING

from harness.report.markdown import grid
from harness.report.names import roles
from harness.report.points import Launches
from harness.report.stats import ALPHA, crossed_bootstrap, estimate
from tools._studied import Studied, accuracy, linked, trained

if TYPE_CHECKING:
    from harness.report.sections import Cell


def budgets(studied: Studied, counted: Launches) -> str:
    """The adapters that are better on validation than all that train as few numbers; accuracy is on test.

    counted: by variant, as in reports/bench.json. Last column: the smallest that is not clearly worse on test
    (Bonferroni over those that train as few numbers or fewer).
    """
    ran = [c.chosen for c in studied.curves if c.chosen.first["variant"] != roles().ceiling and c.chosen.validation]
    if len(ran) < 2:
        return ""
    body, best = [], -1.0
    for cell in sorted(ran, key=lambda c: (trained(c), -_worth(c))):
        if _worth(cell) <= best:
            continue
        best, low_high = _worth(cell), crossed_bootstrap(cell.right)
        smaller = [c for c in ran if trained(c) <= trained(cell) and c is not cell]
        above = {c.name: estimate(cell.right, c.right) for c in smaller}
        alike = [c for c in smaller if above[c.name].value <= 0 or above[c.name].p >= ALPHA / len(smaller)]
        low, high = (f"{100 * bound:.1f}" for bound in low_high)
        body.append(
            [
                linked(cell),
                f"{trained(cell):,}",
                f"{cell.first['adapter_file_bytes'] / 1e3:,.1f}",
                _peak(cell, counted),
                f"{100 * accuracy(cell):.1f} [{low}, {high}]",
                _on_four_bits(cell, studied),
                f"{median(r['forgetting']['nats'] for r in cell.done):+.2f}",
                _named(min(alike, key=trained, default=None)),
            ]
        )
    head = ["adapter", "trained numbers", "file, kB", "training peak ÷ lora's", "accuracy, %", "on a 4-bit base, %"]
    head += ["forgetting, nats/token", "smallest not clearly worse"]
    return "\n".join(grid(head, body))


def _named(cell: Cell | None) -> str:
    return f"`{cell.label}`, {trained(cell):,}" if cell else "none"


def _worth(cell: Cell) -> float:
    return mean(cell.validation.values())


def _peak(cell: Cell, counted: Launches) -> str:
    """Bytes counted on Qwen3-0.6B's shapes, with the variant's own settings there."""
    own, base = (counted.get(v, {}).get("train_peak_bytes") for v in (cell.first["variant"], roles().baseline))
    return f"{own / base:.2f}" if own and base and cell.own_settings else "–"


def _on_four_bits(cell: Cell, studied: Studied) -> str:
    """At the same settings and learning rate."""
    same = [c for c in studied.main if (c.label, c.first["lr"]) == (cell.label, cell.first["lr"]) and c.done]
    return next((f"{100 * accuracy(c):.1f}" for c in same if c.first["quantization"] == "4bit"), "–")
