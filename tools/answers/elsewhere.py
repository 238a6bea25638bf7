"""docs/findings.md: is the order the same on other bases, and in the tables of others?"""

from __future__ import annotations

import math
from statistics import mean, stdev

import pandas as pd
import yaml

from harness.report.build import REFERENCE
from harness.report.learning_rates import curves
from harness.report.names import roles
from harness.report.notes import span
from harness.report.others import references
from harness.report.sections import Cell
from harness.report.stats import estimate
from tools._rank_order import FEWEST, agreeing, better_half, in_words
from tools._studied import (
    Studied,
    accuracy,
    by_loss,
    linked,
    parameters,
    plain_choices,
    points,
    response_loss,
    worth_by_loss,
)


def bases(studied: Studied) -> str:
    """Accuracy on other bases of the embedded benchmark: all settings the same but the model."""
    lines = []
    for s in studied.beside("model"):
        others = plain_choices(s)
        ours = {c.chosen.label: c.chosen for c in studied.usual if c.chosen.label in others}
        if not ours:
            continue
        pair = [accuracy(c) for c in ours.values()], [accuracy(others[name]) for name in ours]
        alike, count = agreeing(*pair, least=0.05)
        by_size = in_words([float(parameters(others[name])) for name in ours], pair[1])
        absent = [c.chosen.label for c in studied.usual if c.chosen.label not in others]
        lines.append(
            f"* ρ {in_words(*pair)}; better half {better_half(*pair)}; by their numbers of parameters alone {by_size}. "
            f"Of the pairs more than 5 points apart there, {alike} of {count} have the same order here. "
            f"Seeds there: {_seeds([others[name] for name in ours])}."
            + f" Not run there: {', '.join(absent)}." * bool(absent)
            + _turned(ours, others)
        )
    return "\n".join(lines)


def _seeds(cells: list[Cell]) -> str:
    return span(pd.Series([len(c.done) for c in cells]))


def _turned(ours: dict[str, Cell], others: dict[str, Cell]) -> str:
    """The adapters whose difference to the baseline has another sign there, and whether that is more than noise."""
    base = roles().baseline
    if base not in ours:
        return ""
    here, there = ({n: estimate(c.right, cells[base].right) for n, c in cells.items()} for cells in (ours, others))
    turned = [n for n in ours if here[n].value * there[n].value < 0]
    named = [f"{linked(others[n])} {points(here[n])} / {points(there[n])}" for n in turned]
    single = " (intervals there: question noise only)" if not others[base].measures_seeds else ""
    return f" Sign of the difference to `{base}` turned, here / there{single}: {', '.join(named) or 'none'}."


def smollm2(studied: Studied) -> str:
    """Response losses on the two bases side by side, and how alike their order is."""
    there = [s for s in studied.sections if s.setting == "tiny-smollm2_135m"]
    other = [c for c in max(there, key=lambda s: s.plain).cells if c.trained and c.plain] if there else []
    others = {c.cells[0].first["variant"]: by_loss(c.cells) for c in curves(other) if any(map(worth_by_loss, c.cells))}
    ours = {c.chosen.first["variant"]: by_loss(c.cells) for c in studied.usual if any(map(worth_by_loss, c.cells))}
    both = [v for v in ours if v in others and others[v].responses and ours[v].responses]
    if len(both) < FEWEST:
        return ""
    both.sort(key=lambda v: response_loss(others[v]))
    rho = in_words([response_loss(ours[v]) for v in both], [response_loss(others[v]) for v in both])
    best, worst = (f"{linked(others[v])} {response_loss(others[v]):.3f}" for v in (both[0], both[-1]))
    apart = stdev(response_loss(others[v]) for v in both)
    within = [v for v in (_variance_of_seeds(others[v]) for v in both) if v is not None]
    seeds = f", between seeds of one {math.sqrt(mean(within)):.3f}" if within else ""
    return (
        f"* ρ {rho}. Seeds there: {_seeds([others[v] for v in both])}. Loss there from {best} to {worst} nats per "
        f"token; standard deviation between adapters {apart:.3f}{seeds}."
    )


def _variance_of_seeds(cell: Cell) -> float | None:
    """Of the response loss, (nats per token)²; None for a single seed."""
    if cell.responses is None or len(cell.done) < 2:
        return None
    return float(cell.responses.nats.mean(axis=1).var(ddof=1) * cell.responses.per_token**2)


def published(studied: Studied) -> str:
    """Rank correlation with every published table."""
    ours = {c.chosen.first["variant"]: c.chosen for c in studied.usual}
    about = yaml.safe_load((REFERENCE / "sources.yaml").read_text())
    lines = []
    for source, reference in zip(about.values(), references(REFERENCE), strict=True):
        named = source.get("ours") or {p["id"].lower().replace("-", "_"): p["id"] for p in reference.points}
        others = {p["id"]: p["accuracy"] for p in reference.points}
        both = [v for v in ours if v in named]
        if len(both) < FEWEST:
            continue
        here, there = [accuracy(ours[v]) for v in both], [others[named[v]] for v in both]
        by_size = in_words([float(parameters(ours[v])) for v in both], there)
        lines.append(
            f"* {reference.title}: ρ {in_words(here, there)}; by parameters here alone {by_size}. "
            + _spread(there, source["questions"])
        )
    return "\n".join(lines)


def _spread(percents: list[float], questions: int) -> str:
    """Beside the noise of single runs: one of n questions has a standard deviation of √(p(1 − p)/n)."""
    noise = mean(math.sqrt(p * (100 - p) / questions) for p in percents)
    return f"Adapters there spread by {stdev(percents):.1f} points (SD); sampling of questions alone gives {noise:.1f}."
