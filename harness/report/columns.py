"""What a table's columns are called and how a row's figures are written."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

import adapters as ad
from harness.report.stats import RESAMPLES

Row = Any  # a pandas row of harness.report.table.rows
Capabilities = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Column:
    """text: the cell as shown. key: sort key, None last. short: also in the README."""

    head: str
    text: Callable[[Row], str]
    key: Callable[[Row], float | str | None]
    short: bool = True
    bold: Callable[[Row], bool] = lambda row: False


def columns(part: pd.DataFrame, able: Capabilities) -> list[Column]:
    """The columns of one section."""
    twice = twins(part)
    baseline = next((b for b in part["baseline"] if known(b)), None)
    base = part.loc[part["cell"] == baseline, "variant"]
    against = str(base.iloc[0]) if len(base) else "the baseline"
    return [
        Column("variant", lambda r: label(r, r["cell"] in twice), lambda r: r["variant"]),
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
        number_column("forgetting, nats/token", "forgetting", "+.4f"),
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
    out = []
    for kind in kinds:
        pair = f"peak {kind} train / eval, GB"
        out.append(_pair_column(pair, kind, "peak_train_gb", "peak_eval_gb", ".2f", short=True))
        over = f"{kind} above untrained, train / eval, GB"
        out.append(_pair_column(over, kind, "train_overhead_gb", "eval_overhead_gb", "+.2f", short=False))
    return out


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


def twins(part: pd.DataFrame) -> set[str]:
    """Cells whose variant stands in these rows more than once."""
    return set(part.loc[part.duplicated(["variant", "quantization"], keep=False), "cell"])


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
    """The capability probe's answer: yes, no (the reason stands below the table), or ? if it has not run."""
    answer = able.get(row["variant"], {}).get(bits, "?")
    return answer if answer in ("yes", "?") or answer.startswith("no") else "no"
