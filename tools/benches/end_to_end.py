"""Training and evaluation on the tiny benchmark against a plain PEFT loop (tools/benches/_plain.py).

LoRA of the benchmark's rank, fp32. Training is compared by real tokens per second, since the two see other batches;
evaluation by seconds, since both evaluate one adapter, which goes to PEFT as an exported folder.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any, cast

import adapters as ad
from harness.data.batches import pad_id
from harness.data.load import load_data
from harness.data.tokenize import prompt_of
from harness.evaluation.metrics import metrics
from harness.evaluation.predict import predict
from harness.inputs.base_model import loaded
from harness.inputs.fingerprints import Fingerprinter
from harness.report.markdown import grid
from harness.scoring import score
from harness.training.loop import train
from tools._shared import job_of
from tools.benches import _plain
from tools.benches._common import rounds, setting, shown, spread, timed

EVALUATION_GOAL, TRAINING_GOAL = 2.5, 1.2
LEARN = 120  # steps that train the adapter which both sides evaluate
SIZES = {"steps": 30, "questions": 250}  # each round
ROUNDS, MINUTES = 7, 3


def measure(args: Any) -> dict[str, Any]:
    """See `Contest.measure`."""
    with tempfile.TemporaryDirectory() as folder:
        return {"arguments": SIZES} | Contest(Path(folder)).measure()


class Contest:
    """The same base model and data for both sides. folder: for the adapter that both evaluate."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        words = ["benchmark=tiny", "variant=lora", f"eval.limit={SIZES['questions']}", "device=cpu"]
        self.job, self.learning = (job_of([*words, f"steps={steps}"]) for steps in (SIZES["steps"], LEARN))
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
        for _ in rounds(ROUNDS, MINUTES):
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
        import peft

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
        import peft

        model = peft.PeftModel.from_pretrained(copy.deepcopy(self.base), self.folder / "peft")
        prompts = [prompt_of(self.job.prompt, q.text) for q in self.data.test]
        limit = self.job.max_new_tokens
        seconds, texts = timed(lambda: _plain.answer(model, self.tokenizer, prompts, max_new_tokens=limit))
        return seconds, sum(score(t, q.reference).correct for t, q in zip(texts, self.data.test, strict=True))


def page(section: dict[str, Any]) -> str:
    """How many times faster than the plain loop."""
    a, found, (correct, plain) = section["arguments"], section["rounds"], section["correct"]
    speed = spread(own / other for own, other in (r["train"] for r in found))
    evaluation = spread(other / own for own, other in (r["evaluate"] for r in found))
    rows = [("training", speed, TRAINING_GOAL), ("evaluation", evaluation, EVALUATION_GOAL)]
    body = [[name, shown(times, "" if times[0] >= goal else " (below)"), f"{goal}"] for name, times, goal in rows]
    what = (
        f"LoRA on the tiny benchmark, {a['steps']} steps and {a['questions']} questions a round, {len(found)} rounds. "
        f"The plain loop (tools/benches/_plain.py) trains with PEFT, on shuffled batches, and answers by `generate` in "
        f"batches of 50. Both evaluate the same adapter: {correct} and {plain} answers are correct. {setting(section)}"
    )
    return "\n\n".join([what, "\n".join(grid(["", "times faster than the plain loop", "goal"], body))])
