"""docs/findings.md: is the order the same on other bases, and in the tables of others?"""

from __future__ import annotations

import pandas as pd
import yaml

from harness.report.build import REFERENCE
from harness.report.learning_rates import curves
from harness.report.names import roles
from harness.report.notes import span
from harness.report.others import references
from harness.report.sections import Cell
from tools._rank_order import FEWEST, agreeing, better_half, in_words
from tools._studied import Studied, accuracy, by_loss, linked, parameters, response_loss, worth_by_loss


def bases(studied: Studied) -> str:
    """Accuracy on other bases of the embedded benchmark: all settings the same but the model."""
    lines = []
    for s in studied.beside("model"):
        others = {
            c.chosen.label: c.chosen for c in curves(s.cells) if c.chosen.plain and c.chosen.trained and c.chosen.done
        }
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
    """The adapters whose difference to the baseline has another sign there."""
    base = roles().baseline
    if base not in ours:
        return ""
    here, there = (
        {n: 100 * (accuracy(c) - accuracy(cells[base])) for n, c in cells.items()} for cells in (ours, others)
    )
    turned = [f"{linked(others[n])} {here[n]:+.1f} / {there[n]:+.1f}" for n in ours if here[n] * there[n] < 0]
    return f" Better than `{base}` on one base and worse on the other, points: {', '.join(turned) or 'none'}."


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
    apart = max(max(losses) - min(losses) for v in both if (losses := _by_seed(others[v])))
    each = [f"{linked(others[v])} {response_loss(others[v]):.3f} / {response_loss(ours[v]):.3f}" for v in both]
    return (
        f"* ρ {rho}. Seeds there: {_seeds([others[v] for v in both])}; those of one adapter lie up to {apart:.2f} nats "
        f"per token apart. Loss there / here: {', '.join(each)}."
    )


def _by_seed(cell: Cell) -> list[float]:
    """Response loss of each seed, nats per token."""
    return list(cell.responses.nats.mean(axis=1) * cell.responses.per_token) if cell.responses else []


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
            f"* {reference.title}: ρ {in_words(here, there)}; better half {better_half(here, there)}; "
            f"by parameters here alone {by_size}. Spread there: {max(there) - min(there):.1f} points."
        )
    return "\n".join(lines)
