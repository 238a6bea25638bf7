"""Pages written from measurements: reports/ (bench, gsm8k_smoke, gsm8k_gpu), and blocks of others.

The blocks are the costs in docs/gsm8k.md and README's line about GPUs.

python -m tools.gsm8k_report
    check=true   change nothing; exit 1 if a page differs from what the JSON files give

Reads reports/bench.json, reports/gsm8k_smoke.json with the records beside it, and
reports/gsm8k_gpu/*.json. Only measurements on a CUDA device count for reports/gsm8k_gpu.md.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cli.arguments import parse
from harness.paths import ROOT
from harness.report.generated import check_unchanged, rewrite
from harness.report.markdown import fill_block, grid
from tools import bench
from tools.benches import steps
from tools.benches.launches import OURS, WHOLE
from tools.gsm8k_gpu import part_names

REPORTS, GUIDE, README = ROOT / "reports", ROOT / "docs" / "gsm8k.md", ROOT / "README.md"
WRITTEN = "Written by `python -m tools.gsm8k_report`."
NO_CLAIM = "**This shows that the path works, and nothing about accuracy**: so few steps and questions rank nothing."
CHECKED = """\
Each run was killed twice by SIGKILL and started again by the same command. This page exists only because all checks
passed: every step is in metrics.jsonl once, every question is answered once, the loss fell, every trainable tensor
moved, the base weights did not, a finished run is skipped, eval_gsm8k.py finds the same test questions right, and
another process answers the last chunk of validation questions with the same texts, word for word."""


@dataclass
class Arguments:
    check: bool = False


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    texts = build()
    if args.check:
        check_unchanged(texts, "the JSON files give. Run `make docs`.")
    print("\n".join(rewrite(texts)) or "all pages are up to date")


def build() -> dict[Path, str]:
    """Path → text of every page that the JSON files give; writes nothing."""
    parts = gpu_parts(REPORTS / "gsm8k_gpu")
    gpu = "[reports/gsm8k_gpu.md](../reports/gsm8k_gpu.md)" if parts else "not yet (`make gsm8k-gpu`)"
    measured = _read(REPORTS / "bench.json") or {}
    counted = memory_section(measured["simulated"]) if "simulated" in measured else "Not counted yet (`make bench`)."
    costs = f"\n{counted}\n\nMeasured on CUDA: {gpu}.\n"
    return {
        REPORTS / "gsm8k_smoke.md": smoke_report(REPORTS / "gsm8k_smoke"),
        REPORTS / "gsm8k_gpu.md": gpu_report(parts),
        REPORTS / "bench.md": bench.page(measured),
        GUIDE: fill_block(GUIDE.read_text(), "costs", costs, str(GUIDE.relative_to(ROOT))),
        README: fill_block(README.read_text(), "gpu", gpu_line(parts), README.name),
    }


def _read(file: Path) -> Any:
    return json.loads(file.read_text()) if file.exists() else None


def _table(rows: list[dict[str, str]]) -> str:
    """A table of rows, whose keys are the heads of its columns."""
    return "\n".join(grid(list(rows[0]), [list(row.values()) for row in rows]))


# -- memory ------------------------------------------------------------------------------------------------------------
def memory_section(counted: Any) -> str:
    """Peaks of LoRA's training step with both losses."""
    a, rows = counted["arguments"], {r["name"]: r for r in counted["rows"]}
    losses = {"lora": "`label_loss_sum`", OURS: "`label_loss_sum`", WHOLE: "`model(labels=…)`"}
    peaks = {name: f"{rows[name]['train_peak_bytes'] / 1e9:.2f}" for name in losses}
    body = [{"adapter": n.split(",")[0], "loss": losses[n], "peak, GB": peak} for n, peak in peaks.items()]
    what = (
        f"Peak of one training step on Qwen3-0.6B's shapes ({a['layers']} layers, bf16, {a['batch']} × {a['tokens']} "
        f"tokens, {a['share']:.0%} of them labels), with the model and AdamW's state; counted on a simulated GPU "
        f"(reports/bench.md has every variant):"
    )
    return f"{what}\n\n{_table(body)}"


# -- the smoke run -----------------------------------------------------------------------------------------------------
def smoke_report(folder: Path) -> str:
    """reports/gsm8k_smoke.md: sizes first, since they forbid any claim about accuracy."""
    smoke, title = _read(folder.with_suffix(".json")), "# GSM8K smoke run"
    if smoke is None:
        return f"{title}\n\n{WRITTEN} Not run yet (`make gsm8k-smoke`).\n"
    records = [_read(folder / run["run"] / "result.json") for run in smoke["runs"]]
    r = records[0]
    place, science = r["provenance"], r["science"]
    size = (
        f"{WRITTEN} Size: {r['model']} ({science['model.dtype']}), {r['steps']} steps of batch "
        f"{science['batch_size']}, {r['test']['total']} test and {r['valid']['total']} validation questions, at most "
        f"{science['max_new_tokens']} new tokens, {place['device']}, {place['threads']} threads. Training data: "
        f"GSM8K's own training questions, {r['data']['train_examples']:,} after {r['data']['valid']:,} were held out."
    )
    rows = [_smoke_row(run["kills"], record) for run, record in zip(smoke["runs"], records, strict=True)]
    end = f"Total time: {smoke['seconds'] / 60:.1f} minutes. Records: reports/gsm8k_smoke/."
    return "\n\n".join([title, size, NO_CLAIM, _table(rows), CHECKED, end]) + "\n"


def _smoke_row(kills: dict[str, Any], record: dict[str, Any]) -> dict[str, str]:
    train, test, memory, killed = record["train"], record["test"], record["memory"], kills["training"]
    return {
        "variant": record["variant"],
        "lr": f"{record['lr']:g}",
        "loss, first → last tenth": f"{train['loss_first']:.3f} → {train['loss_last']:.3f}",
        "tokens/s": f"{train['tokens_per_s']:,.0f}",
        "killed in training": f"after step {killed['steps_done']}, resumed at {killed['steps_saved']}",
        "killed in evaluation": f"after {kills['evaluation']['answered']} answers",
        "test right": f"{test['correct']} of {test['total']}",
        "truncated": f"{test['truncated']} of {test['total']}",
        "peak RSS train / eval, GB": f"{memory['train']['peak_rss_gb']:.2f} / {memory['eval']['peak_rss_gb']:.2f}",
    }


# -- on a GPU ----------------------------------------------------------------------------------------------------------
def gpu_parts(folder: Path) -> dict[str, Any]:
    """Part → its JSON, for the parts measured on a CUDA device, in the plan's order."""
    parts = {name: _read(folder / f"{name}.json") for name in part_names()}
    return {name: part for name, part in parts.items() if part and part["device"].startswith("cuda")}


def gpu_report(parts: dict[str, Any]) -> str:
    """reports/gsm8k_gpu.md: a row for each part that was measured, and a line for the others."""
    missing = not_measured(parts)
    lines = ["# GSM8K on a GPU", f"{WRITTEN} `make gsm8k-gpu` runs the parts in order and resumes where it stopped."]
    if missing:
        lines.append(f"Not measured: {missing}.")
    if parts:
        lines.append(_table([_gpu_row(name, part) for name, part in parts.items()]))
    if "bench" in parts:
        lines += ["## Training step and decoding", steps.page(_section(parts["bench"]))]
    return "\n\n".join(lines) + "\n"


def gpu_line(parts: dict[str, Any]) -> str:
    """README's line: what was measured on a CUDA device, and what was not."""
    missing = not_measured(parts)
    words = f"measured: {', '.join(parts)}" + (f"; not measured: {missing}" if missing else "")
    link = "([reports/gsm8k_gpu.md](reports/gsm8k_gpu.md))"
    return f"* GSM8K on a GPU: {words if parts else 'not measured yet'} {link}."


def not_measured(parts: dict[str, Any]) -> str:
    return ", ".join(name for name in part_names() if name not in parts)


def _section(part: dict[str, Any]) -> dict[str, Any]:
    """The part's result; that of `bench` is the only section of its file."""
    result: dict[str, Any] = part["result"]
    return next(iter(result.values())) if part["part"] == "bench" else result


def _gpu_row(name: str, part: dict[str, Any]) -> dict[str, str]:
    place, seconds = _section(part)["provenance"]["device"], f"{part['seconds']:,.0f}"
    return {"part": name, "measured on": place, "seconds": seconds, "result": _gpu_result(name, part["result"])}


def _gpu_result(name: str, r: dict[str, Any]) -> str:
    if name == "tests":
        passed = r["tests"] - r["failures"] - r["errors"] - r["skipped"]
        return f"{passed} passed, {r['skipped']} skipped"
    if not name.startswith("run-"):
        return "below"
    if r["status"] != "done":
        return str(r["status"])
    peaks = [f"{phase} {r['memory'][phase]['peak_allocated_gb']:.2f} GB" for phase in r["memory"] if phase != "attach"]
    test = r["test"]
    return f"{test['correct']} of {test['total']} right, {test['truncated']} truncated; peak {', '.join(peaks)}"


if __name__ == "__main__":
    main(sys.argv[1:])
