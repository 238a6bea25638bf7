"""What a table's columns are called and how a row's figures are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

import adapters as ad
from harness.report.names import roles

Row = Any  # a pandas row of harness.report.table.rows
Capabilities = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Column:
    """text: the cell as shown. key: sort key, None last."""

    head: str
    text: Callable[[Row], str]
    key: Callable[[Row], float | str | None]
    bold: Callable[[Row], bool] = lambda row: False


def columns(part: pd.DataFrame, able: Capabilities) -> list[Column]:
    """The columns of one section."""
    baseline, against = _baseline(part)
    return [
        Column("variant", label, lambda r: r["name"]),
        Column("test accuracy, % [95 % interval]", accuracy, lambda r: r["accuracy"]),
        _difference(f"difference to {against}, points [95 %], p", baseline, p=True),
        *_platinum(part),
        Column("seeds", lambda r: str(r["seeds"]), lambda r: r["seeds"]),
        Column("lr", lambda r: number(r["lr"], "g") + (" (edge)" if r["edge"] else ""), lambda r: r["lr"]),
        number_column("trained parameters", "params", ",.0f"),
        number_column("file, kB", "file_bytes", ",.1f", 1e-3),
        *_memory(part),
        number_column("forgetting, nats/token", "forgetting", "+.4f"),
        number_column("added MACs/token", "added_macs_per_token", ",.0f"),
        *_strata(part),
        *_responses(part, against),
        number_column("validation accuracy, %", "valid", ".1f", 100.0),
        number_column("truncated, %", "truncated", ".1f", 100.0),
        number_column("flexible accuracy, %", "flexible", ".1f", 100.0),
        _support("8-bit", able, "8bit"),
        _support("4-bit", able, "4bit"),
    ]


def brief_columns(part: pd.DataFrame) -> list[Column]:
    """Five columns that fit a screen: for README and the terminal."""
    baseline, against = _baseline(part)
    return [
        Column("adapter", label, lambda r: r["name"]),
        Column("accuracy, % [95 %]", accuracy, lambda r: r["accuracy"]),
        _difference(f"difference to {against}, points", baseline, p=False),
        number_column("parameters", "params", ",.0f"),
        Column("learning rate (tried)", _rate, lambda r: r["lr"]),
    ]


def _baseline(part: pd.DataFrame) -> tuple[str | None, str]:
    """The cell that these rows are compared with, which may stand in another table, and its variant."""
    own = [str(cell) for cell in part.loc[part["is_baseline"], "cell"]]
    baseline = next(iter([*own, *(b for b in part["baseline"] if known(b))]), None)
    return baseline, roles().baseline if baseline else "the baseline"


def _difference(head: str, baseline: str | None, *, p: bool) -> Column:
    """Bold where it is larger than the noise of questions and seeds."""

    def text(row: Row) -> str:
        return "baseline" if row["cell"] == baseline else difference(row, p=p)

    return Column(head, text, lambda r: r["difference"], bold=lambda r: known(r["clear"]) and bool(r["clear"]))


def number_column(head: str, name: str, form: str, scale: float = 1.0) -> Column:
    return Column(head, lambda r: number(r[name], form, scale), lambda r: r[name])


def _platinum(part: pd.DataFrame) -> Iterator[Column]:
    """Accuracy by corrected references, where any run has it."""
    if "platinum" in part and part["platinum"].notna().any():
        yield number_column("Platinum, %", "platinum", ".1f", 100.0)


def _strata(part: pd.DataFrame) -> Iterator[Column]:
    """Accuracy in each stratum, where any run has strata."""
    for name in (c.removeprefix("accuracy_") for c in map(str, part) if c.startswith("accuracy_")):
        if counts := sorted({int(n) for n in part[f"questions_{name}"].dropna()}):
            head = f"{name} ({', '.join(f'{n:,}' for n in counts)}), %"
            yield number_column(head, f"accuracy_{name}", ".1f", 100.0)


def _responses(part: pd.DataFrame, against: str) -> Iterator[Column]:
    """Loss of the reference responses and its difference to the baseline, where any run has it."""
    if "response_loss" in part and part["response_loss"].notna().any():
        yield number_column("response loss, nats/token", "response_loss", ".4f")
        if "response_difference" in part:
            head = f"response loss, difference to {against} [95 %]"
            yield Column(head, _response_difference, lambda r: r["response_difference"])


def _response_difference(row: Row) -> str:
    names = ("response_difference", "response_low", "response_high")
    return _with_interval(row, names, "+.4f") + _one_seed(row) if known(row[names[0]]) else "–"


def _memory(part: pd.DataFrame) -> Iterator[Column]:
    """Two columns per meter: allocated GPU memory and a process's resident set are never mixed."""
    for kind in sorted({m for m in part["memory"] if known(m) and m}):
        yield _pair_column(f"peak {kind} train / eval, GB", kind, "peak_train_gb", "peak_eval_gb", ".2f")
        over = f"{kind} above untrained, train / eval, GB"
        yield _pair_column(over, kind, "train_overhead_gb", "eval_overhead_gb", "+.2f")


def _support(head: str, able: Capabilities, bits: str) -> Column:
    """The capability probe's answer: yes, no (the reason stands below the table), or ? if it has not run."""

    def text(row: Row) -> str:
        answer = able.get(row["variant"], {}).get(bits, "?")
        return answer if answer in ("yes", "?") or answer.startswith("no") else "no"

    return Column(head, text, text)


def _pair_column(head: str, kind: str, one: str, two: str, form: str) -> Column:
    def text(row: Row) -> str:
        own = row["memory"] == kind and (known(row[one]) or known(row[two]))
        return f"{number(row[one], form)} / {number(row[two], form)}" if own else "–"

    return Column(head, text, lambda r: r[one] if r["memory"] == kind else None)


def row_cells(row: Row, used: list[Column], escape: Callable[[str], str], strong: str, link: str) -> list[str]:
    r"""A row in Markdown or HTML. strong, link: templates of bold text {} and of a name \1 with its paper {}."""
    texts = [escape(column.text(row)) for column in used]
    texts = [strong.format(text) if c.bold(row) else text for c, text in zip(used, texts, strict=True)]
    kind = ad.VARIANTS.get(row["variant"])
    if kind and kind.paper:
        texts[0] = re.sub(r"^(\S+)", link.format(f"https://arxiv.org/abs/{kind.paper}"), texts[0])
    return texts


# -- cells -------------------------------------------------------------------------------------------------------------
def known(value: Any) -> bool:
    return value is not None and not pd.isna(value)


def number(value: Any, form: str, scale: float = 1.0) -> str:
    return format(value * scale if scale != 1.0 else value, form) if known(value) else "–"


def full_name(row: Row) -> str:
    """Variant, settings that are not its own, quantization."""
    plain = row["quantization"] == "none" or not known(row["quantization"])
    return str(row["name"]) if plain else f"{row['name']} {row['quantization']}"


def label(row: Row) -> str:
    """The full name, and how many runs ended badly."""
    return full_name(row) + "".join(f" ({row[f'curve_{k}']} {k})" for k in ("diverged", "failed") if row[f"curve_{k}"])


def accuracy(row: Row) -> str:
    return _with_interval(row, ("accuracy", "low", "high"), ".1f", 100.0) if known(row["accuracy"]) else "–"


def difference(row: Row, *, p: bool) -> str:
    if not known(row["difference"]):
        return "–"
    text = _with_interval(row, ("difference", "difference_low", "difference_high"), "+.1f", 100.0)
    if p:
        text += f", p {row['p_holm']:.3f}" if row["p_holm"] >= 0.001 else ", p < 0.001"
    return text + _one_seed(row)


def _with_interval(row: Row, names: tuple[str, str, str], form: str, scale: float = 1.0) -> str:
    value, low, high = (number(row[name], form, scale) for name in names)
    return f"{value} [{low}, {high}]"


def _one_seed(row: Row) -> str:
    return "" if row["seeds_measured"] else " †"


def _rate(row: Row) -> str:
    """Learning rate, and of how many it was the best on validation."""
    if not known(row["lr"]):
        return "–"
    return f"{row['lr']:g} ({row['rates']}{', edge' if row['edge'] else ''})"
