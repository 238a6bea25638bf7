"""The sentences below a table: how its figures were computed, and what speaks against them."""

from __future__ import annotations

import pandas as pd

from harness.report.columns import Capabilities, _platinum, known
from harness.report.summary import TRUNCATED


def notes(part: pd.DataFrame, able: Capabilities) -> list[str]:
    """Sentences below a section's table: how its figures were made, and what speaks against them."""
    shown = part[part["chosen"]]
    done = part[part["seeds"] > 0]
    made = []
    if not done.empty:
        asked = ", ".join(f"{int(n):,}" for n in sorted(done["questions"].unique()))
        made.append(
            f"{asked} test questions. Interval of one seed: Wilson's, which leaves out the spread between seeds; of "
            "several: bootstrap crossed over questions and seeds."
        )
        made += _platinum_notes(shown) + _repeat_notes(done)
    return made + _difference_notes(shown) + _rate_notes(part) + _floor_notes(shown) + _warnings(done, able)


def _platinum_notes(shown: pd.DataFrame) -> list[str]:
    if not _platinum(shown):
        return []
    asked = ", ".join(f"{int(n):,}" for n in sorted(shown["platinum_questions"].dropna().unique()))
    return [f"Platinum: the same answers to {asked} of the questions, by GSM8K-Platinum's corrected references."]


def _repeat_notes(done: pd.DataFrame) -> list[str]:
    if "repeat" not in done or done["repeat"].isna().all():
        return []
    count, most = int(done["repeat"].notna().sum()), 100 * done["repeat"].max()
    return [f"Answered again in another batch order, accuracy of {count} row(s) differed by at most {most:.1f} points."]


def _difference_notes(shown: pd.DataFrame) -> list[str]:
    compared = shown[shown["difference"].notna()]
    if compared.empty:
        return []
    lo, hi = (f"{100 * v:.1f}" for v in (compared["detectable"].min(), compared["detectable"].max()))
    made = [
        f"Differences are on the same questions, p corrected by Holm over {len(compared)} comparison(s); bold only "
        "where p < 0.05 and the spread between seeds is in it. A comparison of this size finds, before that "
        f"correction, a true difference of {lo if lo == hi else f'{lo} to {hi}'} points with 80 % probability."
    ]
    if not compared["seeds_measured"].astype(bool).all():
        made.append("†: one seed on a side, hence without the spread between seeds: another seed may turn it round.")
    if (compared["test"] == "exact McNemar").any():
        made.append("p of one run against one run: exact McNemar.")
    return made


def _rate_notes(part: pd.DataFrame) -> list[str]:
    shown = part[part["chosen"] & part["lr"].notna()]
    made = []
    if (shown["rates"] > 1).any():
        rates = " to ".join(dict.fromkeys(str(n) for n in (shown["rates"].min(), shown["rates"].max())))
        made.append(f"Learning rates were chosen on validation among {rates} per variant, never on test.")
    if part["edge"].any():
        made.append("(edge): the best rate is the smallest or largest tried, and a better one may lie outside.")
    return made


def _floor_notes(shown: pd.DataFrame) -> list[str]:
    return [
        f"Untrained, `{r['variant']}` answers {100 * r['flexible']:.1f} % when any last number counts "
        f"(flexible), {100 * r['accuracy']:.1f} % by marker."
        for _, r in shown[shown["lr"].isna() & (shown["seeds"] > 0)].iterrows()
        if known(r["flexible"])
    ]


def _warnings(done: pd.DataFrame, able: Capabilities) -> list[str]:
    if done.empty:
        return []
    made = [
        f"`{r['cell']}`: {100 * r['truncated']:.1f} % of its answers were cut off by the token limit and are wrong."
        for _, r in done[done["truncated"].fillna(0) > TRUNCATED].iterrows()
    ]
    if done["device"].notna().any():
        devices = "; ".join(sorted({d for all_ in done["device"].dropna() for d in all_.split("; ")}))
        made.append(f"Measured on: {devices}.")
    made += [
        f"`{c}`: its seeds ran different versions of the adapter code."
        for c in done[done["mixed_code"].astype(bool)]["cell"]
    ]
    made += [f"`{c}`: a health check failed; see its record." for c in done[done["unhealthy"] > 0]["cell"]]
    if dirty := int(done["dirty"].sum()):
        made.append(
            f"{dirty} of {int(done['seeds'].sum())} runs were made from a working tree with uncommitted changes."
        )
    for variant in sorted(set(done["variant"])):
        reasons = {b: w for b, w in able.get(variant, {}).items() if not w.startswith(("yes", "no"))}
        if reasons:
            bits, why = " and ".join(sorted(reasons)), "; ".join(dict.fromkeys(w.rstrip(".") for w in reasons.values()))
            made.append(f"{variant} on {bits}: {why}.")
    return made
