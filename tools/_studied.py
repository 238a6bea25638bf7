"""Each question of docs/findings.md, answered from records as Markdown (and a figure); "" where runs are missing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, median
from typing import Any

import yaml

from harness.paths import PUBLISHED, ROOT
from harness.records.choose_lr import choose
from harness.records.record import Record
from harness.report.build import REFERENCE
from harness.report.learning_rates import Curve, curves
from harness.report.markdown import grid
from harness.report.names import usual_lr
from harness.report.others import references
from harness.report.sections import Cell, Section, sections
from harness.report.stats import ALPHA, Estimate, estimate, holm
from harness.report.table import cells
from tools._chart import Series, chart
from tools._rank_order import FEWEST, agreeing, in_words
from tools.study import by_response_loss

NOT_RUN = "Not run yet (`make study`)."
DENSE, LOW_RANK = "antipasto_arrow", "antipasto_dplr"
NEAR = 0.06  # relative difference of the trained numbers of a pair of nearly equal size
RATES_BESIDE = {-1.0: "a tenth", -0.5: "a third", 0.5: "three times", 1.0: "ten times"}  # log₁₀ of the factor
CLOSE = 0.02  # of validation accuracy: about its standard error


@dataclass
class Studied:
    """Published records, as the tables see them."""

    records: list[Record]

    @cached_property
    def sections(self) -> list[Section]:
        return sections(cells(self.records))

    @cached_property
    def main(self) -> list[Cell]:
        """Of the embedded benchmark with its own settings: the adapters on a plain base, every size and rate."""
        return [c for s in self.sections if s.main for c in s.cells if c.first["benchmark"] == "tiny"]

    @cached_property
    def curves(self) -> list[Curve]:
        """One per adapter and size on a plain base, best first; the floor is none, the ceiling is one."""
        plain = [c for c in self.main if c.trained and c.first["quantization"] == "none"]
        return sorted((c for c in curves(plain) if c.chosen.done), key=lambda c: -accuracy(c.chosen))

    @cached_property
    def usual(self) -> list[Curve]:
        """Those at the variant's own settings."""
        return [c for c in self.curves if c.chosen.own_settings]

    @cached_property
    def floor(self) -> float:
        """Accuracy of the untrained model; 0 where it is not published."""
        return max((accuracy(c) for c in self.main if not c.trained and c.done), default=0.0)


# -- small words -------------------------------------------------------------------------------------------------------
def accuracy(cell: Cell) -> float:
    return float(cell.right.mean())


def response_loss(cell: Cell) -> float:
    """Nats per token, mean over the seeds; NaN where the cell has none."""
    return float(cell.responses.nats.mean() * cell.responses.per_token) if cell.responses else float("nan")


def trained(cell: Cell) -> int:
    """How many numbers it trains."""
    return cell.first["trainable_params"] or 0


def linked(cell: Cell) -> str:
    """The cell's name, as a link to its first record."""
    return f"[{cell.label}](../{PUBLISHED.relative_to(ROOT)}/{cell.first['run_id']}/result.json)"


def points(e: Estimate) -> str:
    return f"{100 * e.value:+.1f} [{100 * e.low:+.1f}, {100 * e.high:+.1f}]"


def by_loss(cells_: list[Cell]) -> Cell:
    """The learning rate with the lowest response loss on validation, over the seeds that all rates have."""
    ended = [(c, worth) for c in cells_ if (worth := _worth(c))]
    ended.sort(key=lambda pair: pair[0].first["lr"] or 0.0)
    return ended[choose([(c.first["lr"] or 0.0, worth) for c, worth in ended]).best][0]


def _worth(cell: Cell) -> dict[int | None, float]:
    return {r["seed"]: worth for r in cell.runs if (worth := by_response_loss(r)) is not None}


# -- answers -----------------------------------------------------------------------------------------------------------
def loss(found: Studied) -> tuple[str, str]:
    """How well response loss predicts accuracy, over adapters and over learning rates."""
    used = [c for c in found.usual if c.chosen.responses]
    if len(used) < FEWEST:
        return "", ""
    right, low = [accuracy(c.chosen) for c in used], [-response_loss(c.chosen) for c in used]
    alike, far = agreeing(low, right), agreeing(low, right, least=0.05)
    other = [c for c in used if len(c.points) > 1 and by_loss(c.cells) is not c.chosen]
    cost = {c.chosen.label: 100 * (_at_shared_seed(c, c.chosen) - _at_shared_seed(c, by_loss(c.cells))) for c in other}
    lines = [
        f"* Between adapters, each at its chosen learning rate: ρ {in_words(low, right)}. Of two adapters, the one "
        f"with the lower loss has the higher accuracy in {alike[0]} of {alike[1]} pairs, and in {far[0]} of the "
        f"{far[1]} whose accuracies are more than 5 points apart.",
        f"* Between learning rates: the lowest validation loss picks another rate than the best validation accuracy "
        f"for {len(other)} of {len(used)} adapters.",
    ]
    if cost:
        worst = max(cost, key=lambda name: cost[name])
        lines[1] += (
            f" On the test set that costs {mean(cost.values()):.1f} points on average over these, at most "
            f"{cost[worst]:.1f} (`{worst}`)."
        )
    series = [Series(c.chosen.label, [(response_loss(c.chosen), 100 * accuracy(c.chosen))]) for c in used]
    return "\n".join(lines), chart("Test accuracy, %", "response loss, nats per token of the test references", series)


def _at_shared_seed(curve: Curve, cell: Cell) -> float:
    """Test accuracy at the seeds that every rate of the curve has (all of the cell's, where there is none)."""
    shared = set.intersection(*({r["seed"] for r in c.runs} for c in curve.cells if c.validation))
    runs = [r for r in cell.done if r["seed"] in shared] or cell.done
    return mean(r["test"]["accuracy"] for r in runs)


def levels(found: Studied) -> str:
    """Adapters in groups whose best member does not beat the others clearly."""
    rest = [c.chosen for c in found.usual if c.chosen.measures_seeds]
    if len(rest) < 2:
        return ""
    groups: list[list[Cell]] = []
    for cell in rest:
        leader = groups[-1][0] if groups else None
        if leader is None or estimate(leader.right, cell.right).p < ALPHA / (len(rest) - 1):
            groups.append([])
        groups[-1].append(cell)
    body = [[str(n), ", ".join(f"{linked(c)} {100 * accuracy(c):.1f}" for c in g)] for n, g in enumerate(groups, 1)]
    return "\n".join(grid(["level", "adapters and their test accuracy, %"], body))


def rates(found: Studied) -> tuple[str, str]:
    """The learning rates that are about as good as the best, and the curves."""
    used = [c for c in found.usual if len(c.points) > 2]
    if not used:
        return "", ""
    body, series = [], []
    beside: dict[float, list[float]] = {}  # the rate ÷ the best one, to the next half decade → points below
    for c in used:
        tried = sorted(c.points.values(), key=lambda p: p.lr)
        best = max(tried, key=lambda p: p.valid)
        good = [f"{p.lr:g}" for p in tried if p.valid >= best.valid - CLOSE]
        usual = usual_lr(c.chosen.first["variant"], "tiny")
        span = f"{tried[0].lr:g} to {tried[-1].lr:g}"
        body.append([linked(c.chosen), f"{usual:g}", f"{c.chosen.first['lr']:g}", ", ".join(good), span])
        below = [(p.lr / best.lr, 100 * (p.valid - best.valid)) for p in tried]
        series.append(Series("", below))
        for factor, points_ in below:
            beside.setdefault(round(2 * math.log10(factor)) / 2, []).append(points_)
    often = {10**e: median(below) for e, below in sorted(beside.items()) if len(below) > len(used) / 2}
    lost = [f"{-often[10**e]:.1f} at {word}" for e, word in RATES_BESIDE.items() if 10**e in often]
    head = ["adapter", "default", "best", "within 2 points of the best", "tried"]
    text = f"Median loss of points against the best rate: {', '.join(lost)} of it.\n\n" if lost else ""
    series.append(Series("median", list(often.items())))
    figure = chart("Validation accuracy minus that at the best rate, points", "rate ÷ best rate", series)
    return text + "\n".join(grid(head, body)), figure


def cores(found: Studied, norms: dict[str, Any]) -> str:
    """Pairs of nearly equal size; then what each learning rate did to the weights."""
    pairs = []
    for low in (c.chosen for c in found.curves if c.chosen.first["variant"] == LOW_RANK):
        dense = [c.chosen for c in found.curves if c.chosen.first["variant"] == DENSE]
        near = min(dense, key=lambda d: abs(trained(d) / trained(low) - 1), default=None)
        if near is not None and abs(trained(near) / trained(low) - 1) <= NEAR:
            pairs.append((near, low))
    if len(pairs) < 2:
        return ""
    body = []
    for block, low in sorted(pairs, key=lambda pair: trained(pair[1])):
        sides = [f"{linked(c)}, lr {c.first['lr']:g}: {100 * accuracy(c):.1f}" for c in (block, low)]
        difference = points(estimate(low.right, block.right))
        body.append([f"{trained(block):,} / {trained(low):,}", *sides, difference])
    head = ["trained numbers", "dense block, accuracy %", "low-rank core, accuracy %", "core − block, points"]
    return "\n".join(grid(head, body)) + "\n\n" + _moved(found, norms)


def _moved(found: Studied, norms: dict[str, Any]) -> str:
    """Per variant and learning rate, over all sizes: runs that failed, and medians of the norms' largest layers."""
    body = []
    runs = [(r["variant"], r["lr"], r) for c in found.curves for cell in c.cells for r in cell.runs]
    for variant, lr in sorted({(v, lr or 0.0) for v, lr, _ in runs if v in (DENSE, LOW_RANK)}):
        own = [r for v, rate, r in runs if (v, rate) == (variant, lr)]
        bad = [
            r
            for r in own
            if r["status"] == "diverged" or (r["status"] == "done" and r["test"]["accuracy"] < found.floor)
        ]
        there = [norms[r["run_id"]] for r in own if norms.get(r["run_id"], {}).get("science_hash") == r["science_hash"]]
        sizes = [_median([max(n[key]) for n in there if n[key]]) for key in ("update", "core", "share")]
        body.append([variant, f"{lr:g}", f"{len(bad)} of {len(own)}", *sizes])
    head = ["variant", "lr", "diverged or below the floor", "σ₁(ΔW)", "σ₁(core)", "‖ΔW‖/‖W‖"]
    note = "Norms: the largest of a run's layers, as the median over the runs whose adapter was at hand (–: none)."
    return "\n".join(grid(head, body)) + "\n\n" + note


def _median(values: list[float]) -> str:
    return f"{median(values):.3g}" if values else "–"


def sizes(found: Studied) -> tuple[str, str]:
    """Accuracy over trained numbers, for variants that ran at three sizes or more."""
    by_variant: dict[str, list[Cell]] = {}
    for c in found.curves:
        by_variant.setdefault(c.chosen.first["variant"], []).append(c.chosen)
    shown = {v: sorted(own, key=trained) for v, own in by_variant.items() if len({trained(c) for c in own}) >= 3}
    if not shown:
        return "", ""
    lines = []
    for variant, own in sorted(shown.items()):
        best = max(own, key=accuracy)
        enough = next(c for c in own if accuracy(c) >= accuracy(best) - CLOSE)
        lines.append(
            f"* `{variant}`, {len(own)} sizes: best {linked(best)} {100 * accuracy(best):.1f} % with {trained(best):,} "
            f"trained numbers; the smallest within 2 points is {linked(enough)} with {trained(enough):,}."
        )
    series = [
        Series(v, [(float(trained(c)), 100 * accuracy(c)) for c in own], [_seeds(c) for c in own])
        for v, own in sorted(shown.items())
    ]
    return "\n".join(lines), chart("Test accuracy, %", "trained parameters", series)


def _seeds(cell: Cell) -> tuple[float, float]:
    """Accuracy in percent of the worst and of the best seed."""
    by_seed = 100 * cell.right.mean(axis=1)
    return float(by_seed.min()), float(by_seed.max())


def quantized(found: Studied) -> str:
    """Accuracy on an 8-bit and a 4-bit base minus that on the plain one, at the same learning rate."""
    done = {
        (c.first["variant"], c.first["quantization"], c.first["lr"]): c for c in found.main if c.done and c.own_settings
    }
    bases = sorted({quantization for _, quantization, _ in done} - {"none"}, reverse=True)
    pairs = [(c, done[v, "none", lr]) for (v, q, lr), c in done.items() if q != "none" and (v, "none", lr) in done]
    if not pairs:
        return ""
    found_ = [(c, estimate(c.right, plain.right)) for c, plain in pairs]
    clear = [p < ALPHA for p in holm([e.p for _, e in found_])]
    lines = []
    for base in bases:
        own = [
            (c, e, is_clear) for (c, e), is_clear in zip(found_, clear, strict=True) if c.first["quantization"] == base
        ]
        if not own:
            continue
        worst = min(own, key=lambda item: item[1].value)
        named = ", ".join(f"{linked(c)} {points(e)}" for c, e, is_clear in own if is_clear)
        middle = 100 * median(e.value for _, e, _ in own)
        lines.append(
            f"* {base}: {len(own)} variants, median difference {middle:+.1f} points, lowest "
            f"{linked(worst[0])} {points(worst[1])}. Clear (p < 0.05 after Holm): {named or 'none'}."
        )
    return "\n".join(lines)


def smollm2(found: Studied) -> str:
    """Response losses on the two bases side by side, and how alike their order is."""
    other = [c for s in found.sections for c in s.cells if c.trained and c.first["model"] == "smollm2_135m"]
    theirs = {c.cells[0].first["variant"]: by_loss(c.cells) for c in curves(other) if any(map(_worth, c.cells))}
    ours = {c.chosen.first["variant"]: by_loss(c.cells) for c in found.usual if any(map(_worth, c.cells))}
    both = [v for v in ours if v in theirs and theirs[v].responses and ours[v].responses]
    if len(both) < FEWEST:
        return ""
    both.sort(key=lambda v: response_loss(theirs[v]))
    body = [
        [
            linked(theirs[v]),
            f"{response_loss(theirs[v]):.4f}",
            str(len(theirs[v].done)),
            f"{response_loss(ours[v]):.4f}",
        ]
        for v in both
    ]
    rho = in_words([response_loss(ours[v]) for v in both], [response_loss(theirs[v]) for v in both])
    head = ["adapter", "response loss, SmolLM2-135M", "seeds", "embedded base"]
    return f"Between the two bases, ρ {rho}.\n\n" + "\n".join(grid(head, body))


def published(found: Studied) -> str:
    """Rank correlation with every published table."""
    ours = {c.chosen.first["variant"]: accuracy(c.chosen) for c in found.usual}
    about = yaml.safe_load((REFERENCE / "sources.yaml").read_text())
    lines = []
    for source, reference in zip(about.values(), references(REFERENCE), strict=True):
        named = source.get("ours") or {p["id"].lower().replace("-", "_"): p["id"] for p in reference.points}
        theirs = {p["id"]: p["accuracy"] for p in reference.points}
        both = [v for v in ours if v in named]
        rho = in_words([ours[v] for v in both], [theirs[named[v]] for v in both])
        lines.append(f"* {reference.title}: ρ {rho}. Compared: {', '.join(both) or 'none'}.")
    return "\n".join(lines) if ours else ""
