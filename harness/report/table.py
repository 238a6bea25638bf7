"""Records to rows: one per variant, setting and learning rate, seeds taken together."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from harness.hashing import sha256
from harness.records.record import Record, one_line
from harness.report.differences import baseline_of, differences, pairs
from harness.report.learning_rates import Curve, curves
from harness.report.names import roles
from harness.report.sections import Cell, questions_of, sections
from harness.report.stats import accuracy_interval, wilson
from harness.report.summary import peak, unhealthy

# Columns that only finished runs have.
MEASURED: tuple[str, ...] = ("accuracy", "low", "high", "seed_low", "seed_high", "flexible", "valid", "questions")
MEASURED += ("truncated", "file_bytes", "memory", "peak_train_gb", "peak_eval_gb", "tokens_per_s", "seconds")
MEASURED += ("attach_seconds", "added_macs_per_token", "forgetting", "device", "dirty", "mixed_code", "unhealthy")
RARE = ("platinum", "platinum_questions", "response_loss", "repeat")
MEASURED += RARE
RESPONSES = ("response_difference", "response_low", "response_high")
OPTIONAL = (*RARE, *RESPONSES)  # columns that are there only where a run has them
COMPARED: tuple[str, ...] = ("baseline", "difference", "difference_low", "difference_high", "p", "test", "p_holm")
COMPARED += ("seeds_measured", "clear", "detectable", "train_overhead_gb", "eval_overhead_gb", *RESPONSES)


def cells(records: list[Record]) -> list[Cell]:
    """Runs that differ in nothing but their seed, by name: the run id without the seed.

    Runs of one such name that differ in more all the same (data, defaults or scorer have changed between them) are not
    averaged: the largest group has the name, the others the name and a hash.
    """
    groups: dict[str, dict[str, list[Record]]] = {}
    for record in sorted(records, key=lambda r: r["status"] != "done"):
        same = groups.setdefault(re.sub(r"__seed\d+", "", record["run_id"]), {})
        settings = sha256({k: v for k, v in record["science"].items() if k != "seed"})[:8]
        questions = sha256(questions_of(record))[:8] if record["status"] == "done" else ""
        fitting = [key for key in same if key.startswith(settings)]  # where a failed run belongs
        same.setdefault((questions and settings + questions) or next(iter(fitting), settings), []).append(record)
    out = []
    for name, same in groups.items():
        largest = max(same, key=lambda key: len(same[key]))
        out += [Cell(name if k == largest else f"{name}__{sha256(k)[:8]}", runs) for k, runs in same.items()]
    return out


# -- rows --------------------------------------------------------------------------------------------------------------
def rows(records: list[Record]) -> pd.DataFrame:
    """One row per cell and table, best first within a table; `chosen` marks the learning rate of each variant.

    section: the table's title. is_baseline: whether others, of its quantization, are compared with the row.
    """
    role = roles()
    out: list[dict[str, Any]] = []
    shown_before: set[str] = set()
    for section in sections(cells(records)):
        tuned = curves(section.cells)
        chosen = [c.chosen for c in tuned]
        compared: dict[str, dict[str, Any]] = {}
        for _, shown in groupby(sorted(chosen, key=section.place), key=section.place):
            compared |= differences(list(shown), chosen, role.baseline)
        new = []
        for (title, main), group in groupby(sorted(section.cells, key=section.place), key=section.place):
            same = list(group)
            if shown_before.issuperset(c.name for c in same) and not any(c.trained for c in same):
                continue  # the floor alone, which an earlier table has
            shown_before.update(c.name for c in same)
            for cell in same:
                own = {"section": title, "main": main, "is_baseline": baseline_of(cell, chosen, role.baseline) is cell}
                new.append(_row(cell) | own)
        for row in new:
            row |= _place(row["cell"], tuned) | dict.fromkeys(COMPARED) | compared.get(row["cell"], {})
            row |= _overhead(row, [r for r in new if r["variant"] == role.floor])
        out += new
    if not out:
        return pd.DataFrame()
    frame = pd.DataFrame(out)
    frame = frame.drop(columns=[c for c in OPTIONAL if frame[c].isna().all()])
    frame["place"] = pd.factorize(frame["section"])[0]
    frame = frame.sort_values(["place", "accuracy", "cell"], ascending=[True, False, True], ignore_index=True)
    return frame.drop(columns="place")


def by_section(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Title → rows, in the frame's order."""
    return {} if frame.empty else {str(title): part for title, part in frame.groupby("section", sort=False)}


def pair_rows(records: list[Record]) -> pd.DataFrame:
    """Exact McNemar of every chosen run against the baseline's run with the same seed."""
    out = []
    for section in sections(cells(records)):
        chosen = [c.chosen for c in curves(section.cells)]
        out += [
            {"section": section.place(cell)[0]} | pair
            for cell in chosen
            for pair in pairs(cell, chosen, roles().baseline)
        ]
    return pd.DataFrame(out)


def _row(cell: Cell) -> dict[str, Any]:
    done, first = cell.done, cell.first
    row: dict[str, Any] = {
        "setting": cell.setting,
        "cell": cell.name,
        "run": first["run_id"],
        "variant": first["variant"],
        "name": cell.label,
        "rank": first["rank"],
        "lora_rank": first["lora_rank"],
        "lr": first["lr"],
        "quantization": first["quantization"],
        "seeds": len(done),
        **_ended_badly(cell.runs),
        "params": first["trainable_params"],
        **dict.fromkeys(MEASURED),
    }
    if not done:
        return row
    tests = [r["test"] for r in done]
    row["accuracy"] = float(cell.right.mean())
    if len(done) == 1:
        row["low"], row["high"] = wilson(tests[0]["correct"], tests[0]["total"])
    else:
        row["low"], row["high"] = accuracy_interval(cell.right)
        by_seed = cell.right.mean(axis=1)
        row |= {"seed_low": float(by_seed.min()), "seed_high": float(by_seed.max())}
    if cell.responses:
        row["response_loss"] = _mean([t["response_loss"] for t in tests])
    row |= {
        "flexible": _mean([t["flexible_accuracy"] for t in tests]),
        "valid": _mean([r["valid"]["accuracy"] for r in done]),
        "questions": tests[0]["total"],
        "truncated": _mean([t["truncated"] / t["total"] for t in tests]),
        "file_bytes": first["adapter_file_bytes"],
        "tokens_per_s": _median([r["train"]["tokens_per_s"] for r in done if "train" in r]),
        "seconds": _median([r["seconds"] for r in done]),
        "attach_seconds": _median([r["cost"]["attach_seconds"] for r in done]),
        "added_macs_per_token": first["cost"]["added_macs_per_token"],
        "forgetting": _median([r["forgetting"]["nats"] for r in done]),
        "device": "; ".join(sorted({_device(r) for r in done})),
        "dirty": sum(bool(r["provenance"].get("dirty")) for r in done),
        "mixed_code": len({r["code_hash"] for r in cell.runs}) > 1,
        "unhealthy": sum(bool(unhealthy(r["health"])) for r in done),
        "repeat": max((r["repeat"]["largest_difference"] for r in done if "repeat" in r), default=None),
    }
    return row | _memory(done) | _platinum(done) | _strata(done)


def _ended_badly(runs: list[Record]) -> dict[str, int]:
    return {status: sum(r["status"] == status for r in runs) for status in ("diverged", "failed")}


def _platinum(done: list[Record]) -> dict[str, Any]:
    """Mean over the seeds, where all of them were scored by the same corrected references."""
    scores = [r.get("platinum", {}) for r in done]
    if "accuracy" not in scores[0] or len({s.get("questions_hash") for s in scores}) > 1:
        return {}
    return {"platinum": _mean([s["accuracy"] for s in scores]), "platinum_questions": scores[0]["total"]}


def _strata(done: list[Record]) -> dict[str, Any]:
    """Mean accuracy and number of questions of each stratum; the test questions of a cell's runs are the same."""
    strata = [r["test"].get("strata", {}) for r in done]
    out: dict[str, Any] = {}
    for name in sorted(set.intersection(*map(set, strata))):
        out[f"accuracy_{name}"] = _mean([s[name]["accuracy"] for s in strata])
        out[f"questions_{name}"] = strata[0][name]["total"]
    return out


def _place(name: str, curves_: list[Curve]) -> dict[str, Any]:
    """How a cell's learning rate stands among the others of its variant."""
    curve = next(c for c in curves_ if any(cell.name == name for cell in c.cells))
    point = curve.points.get(name)
    chosen = curve.chosen.name == name
    return {
        "curve": curve.chosen.name,
        "chosen": chosen,
        "edge": chosen and curve.edge,
        "rates": len(curve.points),
        **{f"curve_{k}": n for k, n in _ended_badly([r for cell in curve.cells for r in cell.runs]).items()},
        "valid_common": point.valid if point else None,
        "valid_seeds": point.seeds if point else 0,
    }


def _memory(done: list[Record]) -> dict[str, Any]:
    """The meter, "" where none was read, and its median peaks by phase. Two meters are never mixed."""
    read = {phase: [p for r in done if (p := peak(r["memory"], phase))] for phase in ("train", "eval")}
    meter = min((kind for kind, _ in read["train"] + read["eval"]), default="")
    peaks = {f"peak_{phase}_gb": _median([gb for kind, gb in own if kind == meter]) for phase, own in read.items()}
    return {"memory": meter, **peaks}


def _overhead(row: dict[str, Any], floors: list[dict[str, Any]]) -> dict[str, Any]:
    """Peaks above the evaluation peak of the untrained model in the same quantization, by the same meter."""
    same = [f for f in floors if f["quantization"] == row["quantization"] and f["memory"] == row["memory"]]
    base = same[0]["peak_eval_gb"] if same else None
    own = {phase: row[f"peak_{phase}_gb"] for phase in ("train", "eval")}
    return {f"{p}_overhead_gb": None if base is None or gb is None else gb - base for p, gb in own.items()}


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None


def _device(record: Record) -> str:
    p = record["provenance"]
    count = p.get("threads", "?")
    threads = "" if p.get("cuda") else f", {count} thread{'s' * (count != 1)}"
    return one_line(p.get("device", "unknown device") + threads)
