"""docs/findings.md: which adapter for which number of trained parameters, and what else it costs."""

from __future__ import annotations

from statistics import mean, median

from harness.report.markdown import grid
from harness.report.names import roles
from harness.report.points import Launches
from harness.report.sections import Cell
from harness.report.stats import accuracy_interval, estimate
from tools._studied import CLOSE, Studied, accuracy, linked, parameters

MARGIN = 0.05  # of test accuracy


def budgets(studied: Studied, counted: Launches) -> str:
    """The adapters that lead the floor and all that train as few numbers by CLOSE on validation; accuracy is on test.

    counted: by variant, as in reports/bench.json. Last column: the smallest whose test accuracy is lower by less than
    MARGIN at the upper bound of the 95 % interval, with several seeds on both sides (a non-inferiority test, of each
    by itself).
    """
    ran = [c for c in studied.curves if c.chosen.first["variant"] != roles().ceiling and c.chosen.validation]
    if len(ran) < 2:
        return ""
    floors = [_worth(c) for c in studied.main if not c.trained and c.validation]
    body, best = [], max(floors, default=-1.0)
    for curve in sorted(ran, key=lambda c: (parameters(c.chosen), -_worth(c.chosen))):
        cell = curve.chosen
        if _worth(cell) <= best + CLOSE:
            continue
        best, low_high = _worth(cell), accuracy_interval(cell.right)
        smaller = [c.chosen for c in ran if parameters(c.chosen) < parameters(cell) and c.chosen.measures_seeds]
        alike = [c for c in smaller if cell.measures_seeds and estimate(cell.right, c.right).high < MARGIN]
        low, high = (f"{100 * bound:.1f}" for bound in low_high)
        body.append(
            [
                linked(cell),
                f"{parameters(cell):,}",
                f"{cell.first['adapter_file_bytes'] / 1e3:,.1f}",
                _peak(cell, counted),
                f"{100 * accuracy(cell):.1f} [{low}, {high}]",
                str(len(cell.done)),
                f"{cell.first['lr']:g} ({len(curve.points)}{', edge' * curve.edge})",
                _on_four_bits(cell, studied),
                f"{median(r['forgetting']['nats'] for r in cell.done):+.2f}",
                _named(min(alike, key=parameters, default=None)),
            ]
        )
    head = ["adapter", "trained parameters", "file, kB", "training peak ÷ lora's", "accuracy, %", "seeds", "lr (tried)"]
    head += ["on a 4-bit base, %", "forgetting, nats/token", f"smallest at most {100 * MARGIN:.0f} points worse"]
    before = median(r["forgetting"]["nats_off"] for c in ran for r in c.chosen.done)
    return "\n".join([*grid(head, body), "", f"Loss of the base on that other text: {before:.2f} nats/token."])


def _named(cell: Cell | None) -> str:
    return f"`{cell.label}`, {parameters(cell):,}" if cell else "none shown"


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
