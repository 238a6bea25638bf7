"""What the GSM8K runs cost and showed: pages of reports/ (gsm8k_smoke, gsm8k_gpu, simulated), and blocks of others.

The blocks are the costs in docs/gsm8k.md and README's line about GPUs.

python -m tools.gsm8k_report
    check=true   change nothing; exit 1 if a page differs from what the JSON files give

Reads reports/memory.json, reports/simulated.json, reports/gsm8k_smoke.json with the records beside it, and
reports/gsm8k_gpu/*.json. Only measurements on a CUDA device count for reports/gsm8k_gpu.md.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cli.arguments import parse
from harness.files import write_text
from harness.paths import ROOT
from harness.report.markdown import fill_block, grid
from tools import bench_simulated
from tools.bench_memory import KINDS
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
    changed = [p for p, text in texts.items() if not p.exists() or p.read_text() != text]
    names = [str(p.relative_to(ROOT)) for p in changed]
    if args.check and changed:
        raise SystemExit(f"{', '.join(names)}: not what the JSON files give. Run `make docs`.")
    for path in changed:
        write_text(path, texts[path])
    print("\n".join(f"{name} rebuilt" for name in names) or "all pages are up to date")


def build() -> dict[Path, str]:
    """Path → text of every page that the JSON files give; writes nothing."""
    parts = gpu_parts(REPORTS / "gsm8k_gpu")
    gpu = "[reports/gsm8k_gpu.md](../reports/gsm8k_gpu.md)" if parts else "not measured (`make gsm8k-gpu`)"
    costs = f"\n{memory_section(_read(REPORTS / 'memory.json'))}\n\nTime and memory on CUDA: {gpu}.\n"
    return {
        REPORTS / "gsm8k_smoke.md": smoke_report(REPORTS / "gsm8k_smoke"),
        REPORTS / "gsm8k_gpu.md": gpu_report(parts),
        REPORTS / "simulated.md": bench_simulated.page(_read(REPORTS / "simulated.json")),
        GUIDE: fill_block(GUIDE.read_text(), "costs", costs, str(GUIDE.relative_to(ROOT))),
        README: fill_block(README.read_text(), "gpu", gpu_line(parts), README.name),
    }


def _read(file: Path) -> Any:
    return json.loads(file.read_text()) if file.exists() else None


def _table(head: list[str], body: list[list[str]]) -> str:
    return "\n".join(grid(head, body))


def _name(row: dict[str, Any]) -> str:
    return str(row["variant"]) + (" (PEFT)" if row["peft"] else "")


# -- memory ------------------------------------------------------------------------------------------------------------
def memory_section(measured: Any) -> str:
    """Peaks by loss, and the ratios between them."""
    if measured is None:
        return "Peak memory: not measured (`make memory`)."
    a, place, ratios = measured["arguments"], measured["provenance"], measured["ratios"]
    body = []
    for r in measured["rows"]:
        cells = [_name(r), f"`{KINDS[r['loss']]}`", f"{r['share']:.0%}", "yes" if r["checkpointing"] else "no"]
        body.append([*cells, f"{r['peak_bytes'] / 1e9:.2f}", f"{r['step_bytes'] / 1e9:.2f}"])
    what = "peak resident set" if a["device"] == "cpu" else "peak allocated memory"
    shape = f"{a['layers']} layers, {a['dtype']}, batch {a['batch']} × {a['tokens']} tokens, random weights"
    lines = [f"One training step on Qwen3-0.6B's shapes ({shape}); {what}, {place['device']}:"]
    head = ["adapter", "loss", "labels", "gradient checkpointing", "peak, GB", "above the model, GB"]
    lines.append(_table(head, body))
    if ratios:
        body = []
        for r in ratios:
            cells = [r["variant"], f"{r['share']:.0%}", "yes" if r["checkpointing"] else "no"]
            body.append([*cells, f"{r['peak']:.3f}", f"{r['above_model']:.3f}"])
        head = ["adapter", "labels", "gradient checkpointing", "peak, ratio", "above the model, ratio"]
        lines += ["`label_loss_sum` over `model(labels=…)`:", _table(head, body)]
        loss, gradients = (max(d[key] for d in measured["differences"]) for key in ("loss", "gradients"))
        lines.append(f"Largest relative difference: {loss:.1e} in the loss, {gradients:.1e} in the gradients.")
    return "\n\n".join(lines)


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
    head = ["variant", "lr", "loss, first → last tenth", "tokens/s", "killed in training", "killed in evaluation"]
    head += ["test right", "truncated", "peak RSS train / eval, GB"]
    rows = [_smoke_row(run["kills"], record) for run, record in zip(smoke["runs"], records, strict=True)]
    end = f"Total time: {smoke['seconds'] / 60:.1f} minutes. Records: reports/gsm8k_smoke/."
    return "\n\n".join([title, size, NO_CLAIM, _table(head, rows), CHECKED, end]) + "\n"


def _smoke_row(kills: dict[str, Any], record: dict[str, Any]) -> list[str]:
    train, test, killed = record["train"], record["test"], kills["training"]
    return [
        record["variant"],
        f"{record['lr']:g}",
        f"{train['loss_first']:.3f} → {train['loss_last']:.3f}",
        f"{train['tokens_per_s']:,.0f}",
        f"after step {killed['steps_done']}, resumed at {killed['steps_saved']}",
        f"after {kills['evaluation']['answered']} answers",
        f"{test['correct']} of {test['total']}",
        f"{test['truncated']} of {test['total']}",
        " / ".join(f"{record['memory'][phase]['peak_rss_gb']:.2f}" for phase in ("train", "eval")),
    ]


# -- on a GPU ----------------------------------------------------------------------------------------------------------
def gpu_parts(folder: Path) -> dict[str, Any]:
    """Part → its JSON, for the parts measured on a CUDA device, in the plan's order."""
    parts = {name: _read(folder / f"{name}.json") for name in part_names()}
    return {name: part for name, part in parts.items() if part and part["device"].startswith("cuda")}


def gpu_report(parts: dict[str, Any]) -> str:
    """reports/gsm8k_gpu.md: a row for each part that was measured, and a line for the others."""
    missing = [name for name in part_names() if name not in parts]
    lines = ["# GSM8K on a GPU", f"{WRITTEN} `make gsm8k-gpu` runs the parts in order and resumes where it stopped."]
    if missing:
        lines.append(f"Not measured: {', '.join(missing)}.")
    if parts:
        rows = [
            [name, part["result"]["provenance"]["device"], f"{part['seconds']:,.0f}", _gpu_result(name, part["result"])]
            for name, part in parts.items()
        ]
        lines.append(_table(["part", "measured on", "seconds", "result"], rows))
    if "memory" in parts:
        measured = parts["memory"]["result"]
        rows = [[_name(r), f"{1000 * r['step_seconds']:,.0f}"] for r in measured["rows"]]
        lines += [memory_section(measured), _table(["adapter", "training step, ms"], rows)]
    if "bench" in parts:
        rows = [
            [r["implementation"], f"{r['train_ratio']:.3f}", f"{r['decode_ratio']:.3f}"]
            for r in parts["bench"]["result"]["rows"]
        ]
        lines.append(_table(["implementation", "training step / LoRA's", "decoding / bare model"], rows))
    return "\n\n".join(lines) + "\n"


def gpu_line(parts: dict[str, Any]) -> str:
    """README's line: what was measured on a CUDA device, and what was not."""
    missing = [name for name in part_names() if name not in parts]
    words = [f"measured: {', '.join(parts)}"] * bool(parts) + [f"not measured: {', '.join(missing)}"] * bool(missing)
    link = "([reports/gsm8k_gpu.md](reports/gsm8k_gpu.md))"
    return f"* GSM8K on a GPU: {'; '.join(words) if parts else 'not measured yet'} {link}."


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
