"""The sentences below a table: how its figures were computed, and what speaks against them."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from harness.records.record import one_line
from harness.report.columns import Capabilities, Row, full_name, known
from harness.report.summary import TRUNCATED

NAMED = 3  # rows in a warning; the table has a column with all of them

LEGEND = (
    "Known and new: questions of families that pre-training has and has not (docs/tiny.md). Flexible: the last number "
    "counts as the answer. Truncated: answers cut at the token limit. Forgetting: rise of the loss on other text. "
    "Added MACs: of the unmerged adapter. RSS above untrained: compared with evaluating the base model. 8-bit, 4-bit: "
    "whether the variant trains on such a base, from a probe."
)


def notes(part: pd.DataFrame, able: Capabilities) -> list[str]:
    """Sentences below a section's table; Markdown and HTML show them alike, backquotes are code."""
    shown = part[part["chosen"]]
    done = part[part["seeds"] > 0]
    return [
        *_question_notes(shown, done),
        *_difference_notes(shown),
        *_rate_notes(part),
        *_floor_notes(shown),
        *_machine_notes(done),
        *_warnings(done),
        *_capability_notes(done, able),
    ]


def brief_notes(part: pd.DataFrame, clear: str) -> list[str]:
    """The three lines below a short table; a fourth names rows that something speaks against.

    clear: what marks the differences that are larger than the noise.
    """
    shown, done = part[part["chosen"]], part[part["seeds"] > 0]
    if done.empty:
        return []
    compared = shown[shown["difference"].notna()]
    count = f" over {len(compared)} comparisons" if len(compared) > 1 else ""
    single = " †: single seed, the sign may flip." if not compared["seeds_measured"].astype(bool).all() else ""
    edge = " edge: the best is the smallest or largest tried, so a better one may lie outside." * bool(
        shown["edge"].any()
    )
    lines = [
        f"{span(done['questions'], 'test question')}, {seed_span(shown)}; an answer counts if the number after its "
        "marker is right. Intervals: Wilson for one seed, t over questions and seeds for several.",
        f"Differences: same questions. {clear}: p < 0.05 after Holm{count}, with several seeds on both sides.{single} "
        f"{_detectable(compared)}".rstrip(),
        f"Learning rates: best on validation, on {span(_tuned(shown)['valid_seeds'], 'seed')}, never on test; the "
        f"intervals leave out the doubt about this choice. In brackets how many were tried.{edge}",
    ]
    warned = " ".join(_warnings(done))
    return [*lines, warned] if warned else lines


def span(column: pd.Series, word: str = "") -> str:
    """`5`, `1–5`, or an en dash where nothing is known; with a word, `1 seed` or `1–5 seeds`."""
    counts = column.dropna()
    ends = [] if counts.empty else [f"{int(counts.min()):,}", f"{int(counts.max()):,}"]
    text = "–".join(dict.fromkeys(ends)) or "–"
    return f"{text} {word}{'s' * (text != '1')}" if word else text


def seed_span(shown: pd.DataFrame) -> str:
    """Of the rows that train something: the untrained model has nothing that a seed could change."""
    return span(_tuned(shown)["seeds"], "seed")


def _tuned(shown: pd.DataFrame) -> pd.DataFrame:
    """The rows with a learning rate; all, where there is none."""
    tuned = shown[shown["lr"].notna()]
    return shown if tuned.empty else tuned


def _detectable(compared: pd.DataFrame) -> str:
    if compared.empty:
        return ""
    middle, most = (f"{100 * v:.1f}" for v in (compared["detectable"].median(), compared["detectable"].max()))
    rows = f"{middle} points" if middle == most else f"median {middle}, at most {most} points"
    return f"Minimum detectable effect: {rows} (80 % power, Bonferroni)."


def _question_notes(shown: pd.DataFrame, done: pd.DataFrame) -> Iterator[str]:
    if done.empty:
        return
    if counts := _counts(done["questions"]):
        yield f"{counts} test questions."
    yield "95 % intervals: Wilson for one seed (question noise only); Student's t over questions and seeds for several."
    if "platinum" in shown and (counts := _counts(shown["platinum_questions"])):
        yield f"Platinum: the same answers to {counts} questions, scored by GSM8K-Platinum's references."
    if "response_loss" in done and done["response_loss"].notna().any():
        yield (
            "Response loss: of the references to the test questions, teacher-forced; lower is better. Intervals by "
            "the same t, not corrected for the number of comparisons."
        )
    if "repeat" in done and done["repeat"].notna().any():
        rows, most = int(done["repeat"].notna().sum()), 100 * done["repeat"].max()
        yield f"Another batch order changed the accuracy of {rows} row(s) by at most {most:.1f} points."


def _counts(column: pd.Series) -> str:
    return ", ".join(f"{int(n):,}" for n in sorted(column.dropna().unique()))


def _difference_notes(shown: pd.DataFrame) -> Iterator[str]:
    compared = shown[shown["difference"].notna()]
    if compared.empty:
        return
    yield (
        "Differences are on the same questions, seeds not paired; Holm-corrected p over "
        f"{len(compared)} comparison(s). Bold: p < 0.05, with several seeds on both sides, where seeds can matter."
    )
    yield _detectable(compared)
    if not compared["seeds_measured"].astype(bool).all():
        yield "†: single seed: seed variance is not included, so the sign may flip."
    if (compared["test"] == "exact McNemar").any():
        yield "One run against one run: exact McNemar test."


def _rate_notes(part: pd.DataFrame) -> Iterator[str]:
    rates = part[part["chosen"] & part["lr"].notna()]["rates"]
    if (rates > 1).any():
        yield f"Learning rates: best of {span(rates)} per variant on validation, never on test."
    if part["edge"].any():
        yield "(edge): the best learning rate is the smallest or largest tried; a better one may lie outside."


def _floor_notes(shown: pd.DataFrame) -> Iterator[str]:
    for _, row in shown[shown["lr"].isna() & shown["flexible"].notna()].iterrows():
        yield (
            f"`{row['variant']}` (untrained) scores {100 * row['accuracy']:.1f} % by marker, "
            f"{100 * row['flexible']:.1f} % if the last number counts as the answer (flexible)."
        )


def _machine_notes(done: pd.DataFrame) -> Iterator[str]:
    if devices := sorted({d for several in done["device"].dropna() for d in several.split("; ")}):
        yield f"Measured on: {'; '.join(devices)}."
    if (done["memory"] == "").any():
        yield "Peak RSS is known only for the first run of a process."


def _warnings(done: pd.DataFrame) -> Iterator[str]:
    """What speaks against single rows."""
    cut = done[done["truncated"].fillna(0) > TRUNCATED].sort_values("truncated", ascending=False)
    if not cut.empty:
        named = [f"{_at_rate(row)} {100 * row['truncated']:.1f} %" for _, row in cut.head(NAMED).iterrows()]
        more = f", and {len(cut) - NAMED} more" * (len(cut) > NAMED)
        yield f"Answers that hit the token limit and count as wrong: {', '.join(named)}{more}."
    for _, row in done[done["mixed_code"].astype(bool)].iterrows():
        yield f"{_at_rate(row)}: its seeds ran different versions of the adapter code."
    for _, row in done[done["unhealthy"] > 0].iterrows():
        yield f"{_at_rate(row)}: a health check failed; see its record."
    if dirty := int(done["dirty"].sum()):
        yield f"{dirty} of {int(done['seeds'].sum())} runs used a working tree with uncommitted changes."


def _capability_notes(done: pd.DataFrame, able: Capabilities) -> Iterator[str]:
    """Why the capability probe failed, where it did not say plain no."""
    for variant in sorted(set(done["variant"])):
        reasons = {b: one_line(w) for b, w in able.get(variant, {}).items() if not w.startswith(("yes", "no"))}
        if reasons:
            bits = " and ".join(sorted(reasons))
            why = "; ".join(dict.fromkeys(w.removeprefix(f"{variant}: ").rstrip(".") for w in reasons.values()))
            yield f"{variant} on {bits}: {why}."


def _at_rate(row: Row) -> str:
    return f"`{full_name(row)}`" + (f" at lr {row['lr']:g}" if known(row["lr"]) else "")
