"""The golden run: a short training and evaluation whose numbers must not change unless RESULTS_VERSION does.

python -m tools.golden
    write=true   store today's numbers in tests/records/golden.json; refused while RESULTS_VERSION is that of the file
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cli.arguments import parse
from harness.cli.quiet import quiet
from harness.data.load import load_data
from harness.evaluation.predictions import read_predictions
from harness.files import write_text
from harness.hashing import sha256
from harness.inputs.base_model import load_tokenizer
from harness.inputs.fingerprints import Fingerprinter
from harness.paths import ROOT
from harness.records.ids import RESULTS_VERSION
from harness.run import run
from tools._shared import job_of

FILE = ROOT / "tests" / "records" / "golden.json"
WORDS = ["benchmark=tiny", "variant=lora", "steps=30", "eval.limit=40", "device=cpu", "threads=1"]


@dataclass
class Arguments:
    write: bool = False


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    with tempfile.TemporaryDirectory() as folder:
        now = json.dumps(golden_run(Path(folder)), indent=1, ensure_ascii=False)
    if not args.write:
        print(now)
        return
    if FILE.exists() and json.loads(FILE.read_text())["results_version"] >= RESULTS_VERSION:
        raise SystemExit(f"{FILE.relative_to(ROOT)}: is of version {RESULTS_VERSION}. Raise RESULTS_VERSION first.")
    write_text(FILE, now + "\n")


def golden_run(folder: Path) -> dict[str, Any]:
    """Losses and rates of 30 steps, the batches' order and token ids, and the answers to 40 test questions."""
    quiet()
    job = job_of([*WORDS, f"runs_dir={folder}", f"cache_dir={folder / 'cache'}"])
    record = run(job)
    examples = load_data(job, load_tokenizer(job.model), Fingerprinter().of(job)).train
    place = folder / record["run_id"]
    rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    answers = {p.index: p.text for p in read_predictions(place / "predictions.jsonl") if p.split == "test"}
    return {
        "results_version": record["results_version"],
        "losses": [row["loss"] for row in rows],
        "lrs": [row["lr"] for row in rows],
        "order_hash": record["provenance"]["order_hash"],
        "token_ids_sha256": sha256([list(e.ids) for e in examples[:200]]),
        "correct_bits": record["test"]["correct_bits"],
        "answers": [answers[n] for n in range(len(answers))],
    }


if __name__ == "__main__":
    main(sys.argv[1:])
