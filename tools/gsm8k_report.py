"""What the GSM8K runs cost and showed: reports/gsm8k_smoke.md, reports/gsm8k_gpu.md and a block of docs/gsm8k.md.

python -m tools.gsm8k_report
    check=true   change nothing; exit 1 where a file is not what the JSON files give

Reads reports/memory.json, reports/gsm8k_smoke.json with the records beside it, and reports/gsm8k_gpu/*.json. What no
CUDA device measured is called unmeasured.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.paths import ROOT
from harness.report.markdown import grid, with_costs
from tools.bench_memory import KINDS
from tools.gsm8k_gpu import plan_names

REPORTS, GUIDE = ROOT / "reports", ROOT / "docs" / "gsm8k.md"
NO_CLAIM = "**This shows that the path works, and nothing about accuracy**: so few steps and questions rank nothing."
CHECKED = """\
Each run was killed by SIGKILL twice and started again by the same command. Checked, or this file would not have been
written: every step stands in metrics.jsonl once, every question is answered once, the loss fell, every trainable tensor
moved, the base weights did not, a finished run is skipped, eval_gsm8k.py finds the same test questions right, and the
last chunk of validation questions, answered again in another process, gets the same texts word for word."""
WRITTEN = "Written by `python -m tools.gsm8k_report`."


@dataclass
class Arguments:
    check: bool = False


def main(argv: list[str]) -> None:
    from harness.cli.arguments import parse

    args = parse(Arguments, argv, __doc__ or "")
    texts = build()
    different = [p for p, text in texts.items() if not p.exists() or p.read_text() != text]
    names = [str(p.relative_to(ROOT)) for p in different]
    if args.check and different:
        raise SystemExit(f"{', '.join(names)}: not what the JSON files give. Run python -m tools.gsm8k_report.")
    for path in different:
        path.write_text(texts[path])
    print("\n".join(f"{name} rebuilt" for name in names) or "nothing has changed")


def build() -> dict[Path, str]:
    """Path → text of everything that the JSON files give; writes nothing."""
    memory, parts = _read(REPORTS / "memory.json"), gpu_parts(REPORTS / "gsm8k_gpu")
    costs = "\n\n".join([memory_section(memory), gpu_costs(parts)])
    return {
        REPORTS / "gsm8k_smoke.md": smoke_report(REPORTS / "gsm8k_smoke"),
        REPORTS / "gsm8k_gpu.md": gpu_report(parts),
        GUIDE: with_costs(GUIDE, costs),
    }


def _read(file: Path) -> Any:
    return json.loads(file.read_text()) if file.exists() else None


# -- memory ------------------------------------------------------------------------------------------------------------
def memory_section(found: Any) -> str:
    """Peaks by loss, and the ratios between them."""
    if found is None:
        return "Peak memory: **unmeasured** (`make memory`)."
    a, place = found["arguments"], found["provenance"]
    head = ["adapter", "loss", "labels", "gradient checkpointing", "peak, GB", "above the model, GB"]
    body = []
    for r in found["rows"]:
        name = r["variant"] + (" (PEFT)" if r["peft"] else "")
        saved = "yes" if r["checkpointing"] else "no"
        cells = [f"{r['peak_bytes'] / 1e9:.2f}", f"{r['step_bytes'] / 1e9:.2f}"]
        body.append([name, f"`{KINDS[r['loss']]}`", f"{r['share']:.0%}", saved, *cells])
    what = "peak resident set" if a["device"] == "cpu" else "peak allocated memory"
    shape = f"{a['layers']} layers, {a['dtype']}, batch {a['batch']} × {a['tokens']} tokens, random weights"
    intro = f"One training step on Qwen3-0.6B's shapes ({shape}); {what}, {place['device']}, `make memory`:"
    lines = [intro, "\n".join(grid(head, body))]
    if found["ratios"]:
        head = ["adapter", "labels", "gradient checkpointing", "peak, ratio", "above the model, ratio"]
        body = [
            [
                r["variant"],
                f"{r['share']:.0%}",
                "yes" if r["checkpointing"] else "no",
                f"{r['peak']:.3f}",
                f"{r['above_model']:.3f}",
            ]
            for r in found["ratios"]
        ]
        losses = max(d["loss"] for d in found["differences"])
        gradients = max(d["gradients"] for d in found["differences"])
        lines.append("`label_loss_sum` over `model(labels=…)`:")
        lines.append("\n".join(grid(head, body)))
        lines.append(f"Largest relative difference of the loss {losses:.1e}, of the gradients {gradients:.1e}.")
    return "\n\n".join(lines)


# -- the smoke run -----------------------------------------------------------------------------------------------------
def smoke_report(folder: Path) -> str:
    """reports/gsm8k_smoke.md: sizes first, since they forbid any claim about accuracy."""
    found, head = _read(folder.with_suffix(".json")), "# GSM8K smoke run"
    if found is None:
        return f"{head}\n\n{WRITTEN} Nothing was run yet (`make gsm8k-smoke`).\n"
    runs = [(run, _read(folder / run["run"] / "result.json")) for run in found["runs"]]
    r = runs[0][1]
    place, science = r["provenance"], r["science"]
    size = (
        f"{r['model']} ({science['model.dtype']}), {r['steps']} steps of batch {science['batch_size']}, "
        f"{r['test']['total']} test and {r['valid']['total']} validation questions, at most "
        f"{science['max_new_tokens']} new tokens, {place['device']}, {place['threads']} threads"
    )
    columns = ["variant", "lr", "loss, first → last tenth", "tokens/s", "killed in training", "killed in evaluation"]
    columns += ["test right", "truncated", "peak RSS train / eval, GB"]
    body = []
    for run, record in runs:
        trained, killed, test = record["train"], run["kills"]["training"], record["test"]
        peaks = [f"{record['memory'][phase]['peak_rss_gb']:.2f}" for phase in ("train", "eval")]
        row = [record["variant"], f"{record['lr']:g}", f"{trained['loss_first']:.3f} → {trained['loss_last']:.3f}"]
        row += [f"{trained['tokens_per_s']:,.0f}"]
        row += [f"after step {killed['steps_done']}, resumed at {killed['steps_saved']}"]
        row += [f"after {run['kills']['evaluation']['answered']} answers"]
        row += [f"{test['correct']} of {test['total']}", f"{test['truncated']} of {test['total']}", " / ".join(peaks)]
        body.append(row)
    parts = [
        head,
        f"{WRITTEN} Size: {size}. Training data: GSM8K's own training questions, {r['data']['train_examples']:,}",
    ]
    parts[-1] += f" after {r['data']['valid']:,} were held out."
    parts.append(NO_CLAIM)
    parts += ["\n".join(grid(columns, body)), CHECKED]
    parts.append(f"The whole took {found['seconds'] / 60:.1f} minutes. Records: reports/gsm8k_smoke/.")
    return "\n\n".join(parts) + "\n"


# -- on a GPU ----------------------------------------------------------------------------------------------------------
def gpu_parts(folder: Path) -> dict[str, Any]:
    """Part → its JSON, of those that a CUDA device measured."""
    found = {p.stem: json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))}
    return {name: part for name, part in found.items() if str(part["device"]).startswith("cuda")}


def gpu_costs(parts: dict[str, Any]) -> str:
    names = [n for n in plan_names() if n not in parts]
    if not parts:
        return "Time and memory on CUDA: **unmeasured** (`make gsm8k-gpu`)."
    rest = f" Unmeasured: {', '.join(names)}." if names else ""
    return f"Time and memory on CUDA: [reports/gsm8k_gpu.md](../reports/gsm8k_gpu.md).{rest}"


def gpu_report(parts: dict[str, Any]) -> str:
    """reports/gsm8k_gpu.md: every part of conf/gsm8k_gpu.yaml, measured or not."""
    body = []
    for name in plan_names():
        part = parts.get(name)
        where = part["result"]["provenance"]["device"] if part else "**unmeasured**"
        body.append([name, where, f"{part['seconds']:,.0f}" if part else "–", gpu_result(name, part)])
    lines = [
        "# GSM8K on a GPU",
        f"{WRITTEN} `make gsm8k-gpu` does the parts in this order and goes on where it stopped.",
    ]
    lines.append("\n".join(grid(["part", "measured on", "seconds", "result"], body)))
    if "memory" in parts:
        lines.append(memory_section(parts["memory"]["result"]))
        timed = [r for r in parts["memory"]["result"]["rows"] if "step_seconds" in r]
        rows = [[r["variant"] + (" (PEFT)" if r["peft"] else ""), f"{1000 * r['step_seconds']:,.0f}"] for r in timed]
        lines.append("\n".join(grid(["adapter", "training step, ms"], rows)))
    if "bench" in parts:
        head = ["implementation", "training step / LoRA's", "decoding / bare model"]
        rows = [
            [r["implementation"], f"{r['train_ratio']:.3f}", f"{r['decode_ratio']:.3f}"]
            for r in parts["bench"]["result"]["rows"]
        ]
        lines.append("\n".join(grid(head, rows)))
    return "\n\n".join(lines) + "\n"


def gpu_result(name: str, part: Any) -> str:
    if part is None:
        return "–"
    r = part["result"]
    if name == "tests":
        passed = r["tests"] - r["failures"] - r["errors"] - r["skipped"]
        return f"{passed} passed, {r['skipped']} skipped"
    if "test" not in r:
        return "below"
    memory = {phase: peaks["peak_allocated_gb"] for phase, peaks in r["memory"].items()}
    peaks = ", ".join(f"{phase} {gb:.2f} GB" for phase, gb in memory.items() if phase != "attach")
    return f"{r['test']['correct']} of {r['test']['total']} right, {r['test']['truncated']} truncated; peak {peaks}"


if __name__ == "__main__":
    main(sys.argv[1:])
