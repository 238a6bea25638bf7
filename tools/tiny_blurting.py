"""How likely the tiny benchmark's model blurts (`#### 35` at once), with each run's adapter and without any.

python -m tools.tiny_blurting
    model=models/tiny   folder of the base
    runs_dir=runs       where runs with their adapters are; those of other bases are left out
    questions=200       first validation questions

The probability is that of the first token of a blurted answer, averaged over the questions.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch

import adapters as ad
from harness.cli.arguments import parse
from harness.data.load import split_questions
from harness.data.tokenize import prompt_ids
from harness.inputs.base_model import loaded
from harness.inputs.fingerprints import Fingerprinter
from harness.paths import under_root
from harness.records.store import read_records
from tools._shared import job_of


@dataclass
class Arguments:
    model: str = "models/tiny"
    runs_dir: str = "runs"
    questions: int = 200


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    job = job_of(["benchmark=tiny", "variant=none", f"model.id={args.model}"])
    base = Fingerprinter().of(job)["model"].content
    tokenizer, model = loaded(job)
    texts = [q.text for q in split_questions(job, "valid")[: args.questions]]
    prompts = prompt_ids(job.prompt, texts, tokenizer)
    token = tokenizer(" #### 1")["input_ids"][0]
    print(f"{blurting(model, prompts, token):.3f}  without an adapter")
    for record in read_records([under_root(args.runs_dir)]).records:
        file = under_root(args.runs_dir) / record["run_id"] / "adapter.safetensors"
        if record["science"]["model"] == base and record["trainable_params"] and file.is_file():
            with ad.load(model, file):
                print(f"{blurting(model, prompts, token):.3f}  {record['run_id']}", flush=True)


def blurting(model: Any, prompts: list[list[int]], token: int) -> float:
    """Mean probability of `token` after each prompt."""
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([p], device=model.device), logits_to_keep=1).logits for p in prompts]
        return float(torch.stack([out[0, -1].softmax(-1)[token] for out in logits]).mean())


if __name__ == "__main__":
    main(sys.argv[1:])
