"""A record in words: the last lines of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.paths import ROOT
from harness.records.record import HealthReport, Record, one_line
from harness.report.stats import wilson

TRUNCATED = 0.02  # share of unfinished answers above which a warning is shown


def percent(metrics: Mapping[str, Any]) -> str:
    """`63.2 % [60.6, 65.8]`"""
    low, high = wilson(metrics["correct"], metrics["total"])
    return f"{100 * metrics['accuracy']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def peak(memory: Mapping[str, Mapping[str, Any]], phase: str) -> tuple[str, float] | None:
    """(kind, GB) of a phase's peak: allocated on CUDA, resident set on CPU; None where it was not measured."""
    for key, kind in (("peak_allocated_gb", "GPU"), ("peak_rss_gb", "RSS")):
        if key in memory.get(phase, {}):
            return kind, float(memory[phase][key])
    return None


def summary_lines(record: Record, folder: Path) -> list[str]:
    """The last lines of a run."""
    folder = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    if record["status"] == "done":
        facts = [*_facts(record).items(), ("folder", folder), *(("WARNING", text) for text in warnings(record))]
    else:
        what = f"{record['status']}: {one_line(record.get('error', {}).get('message', ''))}"
        facts = [("status", what), ("folder", folder)]
    return [f"  {word:<11} {text}" for word, text in facts]


def _facts(record: Record) -> dict[str, str]:
    """Word → figures of a finished run."""
    test, valid = record["test"], record["valid"]
    peaks = [f"{phase} {p[1]:.2f} GB {p[0]}" for phase in ("train", "eval") if (p := peak(record["memory"], phase))]
    flexible = f"flexible {100 * test['flexible_accuracy']:.1f} %, truncated {test['truncated']}"
    facts = {"test": f"{percent(test)}  ({test['correct']}/{test['total']}, 95 % interval; {flexible})"}
    if "strata" in test:
        own = (f"{name} {percent(s)} ({s['correct']}/{s['total']})" for name, s in test["strata"].items())
        facts["strata"] = "; ".join(own)
    if "platinum" in record:
        facts["platinum"] = platinum_text(record["platinum"])
    facts["validation"] = f"{percent(valid)}  ({valid['correct']}/{valid['total']})"
    if "repeat" in record:
        facts["repeat"] = repeat_text(record["repeat"])
    facts["parameters"] = f"{record['trainable_params']:,} trained; file {record['adapter_file_bytes']:,} bytes"
    facts["peak memory"] = ", ".join(peaks) or "not measured (another run came first in this process)"
    if "train" in record:
        t = record["train"]
        facts["loss"] = f"{t['loss_first']:.3f} -> {t['loss_last']:.3f} at {t['tokens_per_s']:,.0f} tokens/s"
    if "response_loss" in test and "response_loss" in valid:
        loss = f"{test['response_loss']:.4f} nats per token of the test references"
        facts["responses"] = f"{loss} (validation {valid['response_loss']:.4f})"
    facts["forgetting"] = f"{record['forgetting']['nats']:+.4f} nats per token on other text"
    return facts | {"time": f"{record['seconds']:.0f} s"}


def platinum_text(scores: Mapping[str, Any]) -> str:
    """Accuracy by corrected references."""
    missing = f"{scores['not_found']} of its questions are not in the test set"
    if "accuracy" not in scores:
        return f"–  ({missing})"
    return f"{percent(scores)}  ({scores['correct']}/{scores['total']} by corrected references; {missing})"


def repeat_text(repeat: Mapping[str, Any]) -> str:
    """How other batch orders changed the answers."""
    turns = [f"{t['changed']} of {t['total']} questions changed, {t['texts_differ']} texts" for t in repeat["turns"]]
    return f"accuracy differs by {100 * repeat['largest_difference']:.1f} points in other orders ({'; '.join(turns)})"


def warnings(record: Record) -> list[str]:
    """What speaks against a finished run's figures: failed checks and unfinished answers."""
    out = ["; ".join(problems)] if (problems := unhealthy(record["health"])) else []
    for split in ("test", "valid"):
        cut, total = record[split]["truncated"], record[split]["total"]
        if cut > TRUNCATED * total:
            limit = record["science"].get("max_new_tokens")
            more = f"eval.max_new_tokens={2 * limit if limit else '<more>'}"
            out.append(
                f"{100 * cut / total:.1f} % of {split} answers hit the token limit and count as wrong; raise it: {more}"
            )
    return out


def unhealthy(health: HealthReport) -> list[str]:
    """Sentences for every check of a run that failed."""
    checks = (
        (health["moved"], f"never trained: {', '.join(health['still'][:4])}"),
        (health["no_base_gradient"], "the base model received gradients"),
        (health["base_unchanged"], "the base model changed"),
    )
    return [text for passed, text in checks if passed is False]
