"""Training and evaluation on the tiny benchmark against a plain PEFT loop (tools/_plain.py): part of `make bench`.

python -m tools.bench_end_to_end
    learn=120            steps that train the adapter which both sides evaluate
    steps=30             of training, each round
    questions=250        answered, each round
    rounds=7 minutes=3   at most so many rounds; none begins after so many minutes
    device=cpu force=false   force: also where the section is up to date
    out=reports/bench.json   its section `end to end`

LoRA of the benchmark's rank, fp32. Training is compared by real tokens per second, since the two see other batches;
evaluation by seconds, since both evaluate one adapter, which goes to PEFT as an exported folder.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import peft

import adapters as ad
from harness.cli.arguments import parse
from harness.data.batches import pad_id
from harness.data.load import load_data
from harness.data.tokenize import prompt_of
from harness.evaluation.metrics import metrics
from harness.evaluation.predict import predict
from harness.inputs.base_model import loaded
from harness.inputs.fingerprints import Fingerprinter
from harness.scoring import score
from harness.training.loop import train
from tools import _plain
from tools._shared import job_of, rounds, timed, write_section


@dataclass
class Arguments:
    learn: int = 120
    steps: int = 30
    questions: int = 250
    rounds: int = 7
    minutes: int = 3
    device: str = "cpu"
    out: str = "reports/bench.json"
    force: bool = False


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    with tempfile.TemporaryDirectory() as folder:
        write_section(args, "end to end", __file__, lambda: Contest(args, Path(folder)).measure())


class Contest:
    """The same base model and data for both sides. folder: for the adapter that both evaluate."""

    def __init__(self, args: Arguments, folder: Path) -> None:
        self.args, self.folder = args, folder
        words = ["benchmark=tiny", "variant=lora", f"eval.limit={args.questions}", f"device={args.device}"]
        self.job, self.learning = (job_of([*words, f"steps={steps}"]) for steps in (args.steps, args.learn))
        self.tokenizer, self.model = loaded(self.job)
        self.data, self.pad = load_data(self.job, self.tokenizer, Fingerprinter().of(self.job)), pad_id(self.tokenizer)
        self.base = copy.deepcopy(self.model)  # PEFT's

    def measure(self) -> dict[str, Any]:
        """rounds: what was timed → ours and the plain loop's tokens/s or seconds. correct: answers of both."""
        found = []
        with ad.attach(self.model, self.job.adapter, seed=0):
            self.train(self.learning)
            ad.save(self.model, self.folder / "adapter.safetensors")
            ad.export_peft(self.model, self.folder / "peft")
        for _ in rounds(self.args.rounds, self.args.minutes):
            with ad.attach(self.model, self.job.adapter, seed=0):
                trained = self.train(self.job), self.train_plain()
            (own, correct), (plain, plain_correct) = self.evaluate(), self.evaluate_plain()
            found.append({"train": trained, "evaluate": [own, plain]})
        return {"rounds": found, "correct": [correct, plain_correct]}

    def train(self, job: Any) -> float:
        """Tokens per second."""
        with tempfile.TemporaryDirectory() as folder:
            inputs = (self.model, job, self.data.train, self.pad, Path(folder))
            seconds, progress = timed(lambda: train(*inputs, lambda text: None, lambda: None))
        return progress.tokens / seconds

    def train_plain(self) -> float:
        job, cfg = self.job, cast(Any, self.job.adapter)
        config = peft.LoraConfig(r=cfg.r, lora_alpha=cfg.alpha, target_modules=["q_proj", "v_proj"])
        model = peft.get_peft_model(copy.deepcopy(self.base), config)
        settings: Any = {"steps": job.steps, "batch_size": job.batch_size, "lr": job.lr}
        seconds, (_, tokens) = timed(lambda: _plain.train(model, self.data.train, self.pad, **settings))
        return tokens / seconds

    def evaluate(self) -> tuple[float, int]:
        """Seconds, and how many answers are correct."""
        with ad.load(self.model, self.folder / "adapter.safetensors"), tempfile.TemporaryDirectory() as folder:
            inputs = (self.model, self.tokenizer, self.data.test, self.job, "test", Path(folder) / "predictions.jsonl")
            seconds, answers = timed(lambda: predict(*inputs, lambda text: None))
        return seconds, metrics(answers, self.data.test)["correct"]

    def evaluate_plain(self) -> tuple[float, int]:
        model = peft.PeftModel.from_pretrained(copy.deepcopy(self.base), self.folder / "peft")
        prompts = [prompt_of(self.job.prompt, q.text) for q in self.data.test]
        limit = self.job.max_new_tokens
        seconds, texts = timed(lambda: _plain.answer(model, self.tokenizer, prompts, max_new_tokens=limit))
        return seconds, sum(score(t, q.reference).correct for t, q in zip(texts, self.data.test, strict=True))


if __name__ == "__main__":
    main(sys.argv[1:])
