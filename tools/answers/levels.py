"""docs/findings.md: which adapters differ, and do refinements beat what they refine?"""

from __future__ import annotations

import math
from statistics import median

from harness.report.markdown import grid
from harness.report.names import roles
from harness.report.sections import Cell
from harness.report.stats import ALPHA, detectable, estimate, holm
from tools._studied import Studied, accuracy, linked, points

# Each changes one thing about what it stands beside: start, basis, shape or place of what is trained.
REFINED = {
    "lora": ("dora", "pissa", "eva", "delora", "gralora", "hira"),
    "antipasto": ("antipasto_rot", "antipasto_asvd", "antipasto_corda", "antipasto_arrow", "antipasto_dplr"),
    "ia3": ("ia3_ff",),
}


def levels(studied: Studied) -> str:
    """Adapters in groups whose best member does not beat the others clearly, and the noise that this rests on.

    Bonferroni over all pairs: which adapter leads a group is itself read from the test set.
    """
    rest = [c.chosen for c in studied.usual if c.chosen.measures_seeds]
    if len(rest) < 2:
        return ""
    groups: list[list[Cell]] = []
    for cell in rest:
        leader = groups[-1][0] if groups else None
        if leader is None or estimate(leader.right, cell.right).p < ALPHA / math.comb(len(rest), 2):
            groups.append([])
        groups[-1].append(cell)
    body = [[str(n), ", ".join(f"{linked(c)} {100 * accuracy(c):.1f}" for c in g)] for n, g in enumerate(groups, 1)]
    return _noise(rest) + "\n\n" + "\n".join(grid(["level", "adapters and their test accuracy, %"], body))


def _noise(ran: list[Cell]) -> str:
    by_seed = {c.label: 100 * c.right.mean(axis=1) for c in ran if len(c.done) > 1}
    spreads = {name: float(shares.std(ddof=1)) for name, shares in by_seed.items()}
    widest = max(spreads, key=lambda name: spreads[name])
    text = (
        f"Standard deviation between seeds, points: median {median(spreads.values()):.1f}, largest "
        f"{spreads[widest]:.1f} (`{widest}`, {by_seed[widest].min():.1f} to {by_seed[widest].max():.1f} %)."
    )
    base = next((c for c in ran if c.label == roles().baseline), None)
    if base is None:
        return text
    differences = [estimate(c.right, base.right) for c in ran if c is not base]
    least = median(100 * detectable(e.se, e.df, ALPHA / math.comb(len(ran), 2)) for e in differences)
    return (
        f"{text} At the corrected threshold a difference to `{base.label}` has to be about {least:.1f} points to be "
        "seen with 80 % power."
    )


def refinements(studied: Studied) -> str:
    """Each refinement minus what it refines, both at their chosen rates, by whether that is clear (Holm over all)."""
    ran = {c.chosen.label: c.chosen for c in studied.usual if c.chosen.measures_seeds}
    pairs = [(ran[name], ran[base]) for base, names in REFINED.items() for name in names if {name, base} <= ran.keys()]
    if not pairs:
        return ""
    differences = [estimate(new.right, base.right) for new, base in pairs]
    said: dict[tuple[str, str], list[str]] = {}
    for (new, base), e, p in zip(pairs, differences, holm([e.p for e in differences]), strict=True):
        word = "clear" if p < ALPHA else "not clear"
        said.setdefault((linked(base), word), []).append(f"{linked(new)} {points(e)}")
    bases = list(dict.fromkeys(base for base, _ in said))
    ordered = sorted(said.items(), key=lambda item: (bases.index(item[0][0]), item[0][1]))  # clear before not clear
    return "\n".join(f"* Minus {base}, {word}: {', '.join(own)}." for (base, word), own in ordered)
