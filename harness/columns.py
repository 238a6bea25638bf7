"""What a table's columns are called and how a row's figures are written; Markdown here, HTML in harness/page.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

import adapters as ad
from harness.report import TRUNCATED
from harness.stats import RESAMPLES

Row = Any  # a pandas row of harness.table.rows
Capabilities = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Column:
    """text: the cell as shown. key: what sorting goes by, None last. short: also in the README."""

    head: str
    text: Callable[[Row], str]
    key: Callable[[Row], float | str | None]
    short: bool = True
    bold: Callable[[Row], bool] = lambda row: False


def columns(part: pd.DataFrame, able: Capabilities) -> list[Column]:
    """The columns of one section."""
    twice = part.loc[part.duplicated(["variant", "quantization"], keep=False), "cell"]
    baseline = next((b for b in part["baseline"] if known(b)), None)
    base = part.loc[part["cell"] == baseline, "variant"]
    against = str(base.iloc[0]) if len(base) else "the baseline"
    return [
        Column("variant", lambda r: label(r, r["cell"] in set(twice)), lambda r: r["variant"]),
        Column("8-bit", lambda r: _able(able, r, "8bit"), lambda r: _able(able, r, "8bit")),
        Column("4-bit", lambda r: _able(able, r, "4bit"), lambda r: _able(able, r, "4bit")),
        Column("test accuracy, % [95 % interval]", accuracy, lambda r: r["accuracy"]),
        *_platinum(part),
        Column("seeds", lambda r: str(r["seeds"]), lambda r: r["seeds"]),
        Column(
            f"difference to {against}, points [95 %], p",
            lambda r: "baseline" if r["cell"] == baseline else difference(r),
            lambda r: r["difference"],
            bold=lambda r: known(r["clear"]) and bool(r["clear"]),
        ),
        Column("lr", lambda r: number(r["lr"], "g") + (" (edge)" if r["edge"] else ""), lambda r: r["lr"]),
        Column("trained parameters", lambda r: number(r["params"], ",.0f"), lambda r: r["params"]),
        Column("file, kB", lambda r: number(r["file_bytes"], ",.1f", 1e-3), lambda r: r["file_bytes"]),
        *_memory(part),
        number_column("tokens/s", "tokens_per_s", ",.0f"),
        number_column("run, s", "seconds", ".0f"),
        number_column("forgetting, nats/token", "forgetting", "+.4f"),
        number_column("attach, s", "attach_seconds", ".2f", short=False),
        number_column("added MACs/token", "added_macs_per_token", ",.0f", short=False),
        number_column("validation accuracy, %", "valid", ".1f", 100.0, short=False),
        number_column("truncated, %", "truncated", ".1f", 100.0, short=False),
        number_column("flexible accuracy, %", "flexible", ".1f", 100.0, short=False),
    ]


def number_column(head: str, name: str, form: str, scale: float = 1.0, *, short: bool = True) -> Column:
    return Column(head, lambda r: number(r[name], form, scale), lambda r: r[name], short)


def _platinum(part: pd.DataFrame) -> list[Column]:
    """Accuracy by corrected references, where any run has it."""
    there = "platinum" in part and bool(part["platinum"].notna().any())
    return [number_column("Platinum, %", "platinum", ".1f", 100.0)] if there else []


def _memory(part: pd.DataFrame) -> list[Column]:
    """A column per meter: allocated GPU memory and a process's resident set are never mixed."""
    kinds = sorted({m for m in part["memory"] if known(m) and m}) or ["RSS"]
    made = []
    for kind in kinds:
        pair = f"peak {kind} train / eval, GB"
        made.append(_pair_column(pair, kind, "peak_train_gb", "peak_eval_gb", ".2f", short=True))
        over = f"{kind} above untrained, train / eval, GB"
        made.append(_pair_column(over, kind, "train_overhead_gb", "eval_overhead_gb", "+.2f", short=False))
    return made


def _pair_column(head: str, kind: str, one: str, two: str, form: str, *, short: bool) -> Column:
    def text(row: Row) -> str:
        own = row["memory"] == kind and (known(row[one]) or known(row[two]))
        return f"{number(row[one], form)} / {number(row[two], form)}" if own else "–"

    return Column(head, text, lambda r: r[one] if r["memory"] == kind else None, short)


# -- cells -------------------------------------------------------------------------------------------------------------
def known(value: Any) -> bool:
    return value is not None and not pd.isna(value)


def number(value: Any, form: str, scale: float = 1.0) -> str:
    return format(value * scale if scale != 1.0 else value, form) if known(value) else "–"


def label(row: Row, detailed: bool = False) -> str:
    """Variant, quantization, settings where the variant stands there twice, and how many runs ended badly."""
    parts = [str(row["variant"])]
    if known(row["quantization"]) and row["quantization"] != "none":
        parts.append(row["quantization"])
    if detailed:
        parts += [f"{letter}{row[k]:.0f}" for letter, k in (("r", "rank"), ("k", "lora_rank")) if known(row[k])]
        if match := re.search(r"__([0-9a-f]{8})$", row["cell"]):
            parts.append(match[1])
    return " ".join(parts) + "".join(f" ({row[f'curve_{k}']} {k})" for k in ("diverged", "failed") if row[f"curve_{k}"])


def paper(row: Row) -> str | None:
    """Address of the variant's paper."""
    kind = ad.VARIANTS.get(row["variant"])
    return f"https://arxiv.org/abs/{kind.paper}" if kind and kind.paper else None


def accuracy(row: Row) -> str:
    if not known(row["accuracy"]):
        return "–"
    return f"{100 * row['accuracy']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def difference(row: Row) -> str:
    if not known(row["difference"]):
        return "–"
    interval = f"[{100 * row['difference_low']:+.1f}, {100 * row['difference_high']:+.1f}]"
    bound = row["test"] == "crossed bootstrap" and row["p"] <= 1 / RESAMPLES  # no draw was as far away
    p = f"p {'≤ ' if bound else ''}{row['p_holm']:.3f}" if row["p_holm"] >= 0.001 else "p < 0.001"
    return f"{100 * row['difference']:+.1f} {interval}, {p}{'' if row['seeds_measured'] else ' †'}"


def _able(able: Capabilities, row: Row, bits: str) -> str:
    """What the probe found: yes, no (why: below the table), or ? where it has not been."""
    found = able.get(row["variant"], {}).get(bits, "?")
    return found if found in ("yes", "?") or found.startswith("no") else "no"


# -- Markdown ----------------------------------------------------------------------------------------------------------
def markdown_table(title: str, part: pd.DataFrame, able: Capabilities, *, short: bool) -> str:
    """One section: each variant at its chosen learning rate, and the notes that its figures need."""
    shown = part[part["chosen"]]
    used = [c for c in columns(shown, able) if c.short or not short]
    lines = [f"**{title}**", "", *grid([c.head for c in used], [_cells(row, used) for _, row in shown.iterrows()])]
    return "\n".join([*lines, "", " ".join(notes(part, able))]).rstrip()


def grid(head: list[str], body: list[list[str]]) -> list[str]:
    """A Markdown table's lines."""
    rows = [head, ["---"] * len(head), *([text.replace("|", "\\|") for text in row] for row in body)]
    return ["| " + " | ".join(row) + " |" for row in rows]


def _cells(row: Row, used: list[Column]) -> list[str]:
    texts = [f"**{c.text(row)}**" if c.bold(row) else c.text(row) for c in used]
    if address := paper(row):
        texts[0] = re.sub(r"^(\S+)", rf"[\1]({address})", texts[0])
    return texts


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
