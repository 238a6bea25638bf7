"""Training and evaluation on the tiny benchmark against a plain PEFT loop (tools/benches/_plain.py).

LoRA of the benchmark's rank, fp32. Training is compared by real tokens per second, since the two see other batches;
evaluation by seconds, since both evaluate one adapter, which goes to PEFT as an exported folder. Answers on the tiny
benchmark are short and much alike, so a third contest ends them at lengths spread like those of GSM8K's solutions.
"""

from __future__ import annotations

import copy
import math
import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Any, cast

import torch

import adapters as ad
from harness.data.batches import pad_id
from harness.data.load import load_data
from harness.data.tokenize import prompt_ids, prompt_of
from harness.evaluation.generate import eos_ids, generate
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

GOALS = {"training": 1.2, "evaluation": 2.5, "evaluation, lengths as of GSM8K": 3.0}
LEARN = 120  # steps that train the adapter which both sides evaluate
SIZES = {"steps": 30, "questions": 250}  # each round
ROUNDS, MINUTES = 7, 4
LENGTHS = NormalDist(
    4.37, 0.44
)  # of log(words, digits and signs) in the solutions of GSM8K's test set (81 at the median)
LONGEST = 300  # tokens


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
        self.texts = [prompt_of(self.job.prompt, q.text) for q in self.data.test]
        self.prompts = prompt_ids(self.job.prompt, [q.text for q in self.data.test], self.tokenizer)

    def measure(self) -> dict[str, Any]:
        """rounds: what was timed → ours and the plain loop's tokens/s or seconds.

        correct: answers of both. alike: how many of the long texts are the same in both. tokens: their mean length.
        """
        laps = []
        with ad.attach(self.model, self.job.adapter, seed=0):
            self.train(self.learning)
            ad.save(self.model, self.folder / "adapter.safetensors")
            ad.export_peft(self.model, self.folder / "peft")
        for _ in rounds(ROUNDS, MINUTES):
            with ad.attach(self.model, self.job.adapter, seed=0):
                trained = self.train(self.job), self.train_plain()
            (own, correct), (plain, plain_correct) = self.evaluate(), self.evaluate_plain()
            (own_long, texts), (plain_long, plain_texts) = self.answer_long(), self.answer_long_plain()
            times = {"evaluate": [own, plain], "long": [own_long, plain_long]}
            laps.append({"train": trained, **times})
        alike = sum(a == b for a, b in zip(texts, plain_texts, strict=True))
        tokens = sum(len(self.tokenizer(t)["input_ids"]) for t in texts) / len(texts)
        return {"rounds": laps, "correct": [correct, plain_correct], "alike": alike, "tokens": tokens}

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
        seconds, texts = self.answer_plain(self.peft(), self.job.max_new_tokens)
        return seconds, sum(score(t, q.reference).correct for t, q in zip(texts, self.data.test, strict=True))

    def peft(self) -> Any:
        import peft

        return peft.PeftModel.from_pretrained(copy.deepcopy(self.base), self.folder / "peft")

    def answer_plain(self, model: Any, limit: int) -> tuple[float, list[str]]:
        return timed(lambda: _plain.answer(model, self.tokenizer, self.texts, max_new_tokens=limit))

    # -- lengths as of GSM8K -------------------------------------------------------------------------------------------
    def answer_long(self) -> tuple[float, list[str]]:
        """Seconds and texts. `predict` would stop at the scorer's marker; shortest prompts come first, as there."""
        turns = sorted(range(len(self.prompts)), key=lambda n: len(self.prompts[n]))
        ordered = [self.prompts[n] for n in turns]
        settings: Any = {"eos": eos_ids(self.model, self.tokenizer), "pad": self.pad, "complete": lambda tokens: False}
        settings |= {"batch_size": self.job.eval_batch_size, "max_new_tokens": LONGEST}
        with ad.load(self.model, self.folder / "adapter.safetensors"), self.ends(self.model):
            seconds, answers = timed(lambda: generate(self.model, ordered, **settings))
        texts = dict(zip(turns, self.tokenizer.batch_decode([a.tokens for a in answers]), strict=True))
        return seconds, [texts[n] for n in range(len(texts))]

    def answer_long_plain(self) -> tuple[float, list[str]]:
        model = self.peft()
        with self.ends(model.get_base_model()):
            return self.answer_plain(model, LONGEST)

    def ends(self, model: Any) -> Any:
        """A hook that decides where texts end: by the token and its place alone, so alike in any batch.

        The chance of an end at each place gives lengths of the distribution LENGTHS.
        """
        eos, places = self.tokenizer.eos_token_id, model.config.max_position_embeddings
        usual = sum(map(len, self.prompts)) / len(
            self.prompts
        )  # of a prompt: places are counted from the prompt's start
        alive = [1 - LENGTHS.cdf(math.log(max(1.0, place - usual))) for place in range(places + 1)]
        chance = torch.tensor([1 - b / a if a > 1e-9 else 1.0 for a, b in pairwise(alive)])
        draw = torch.rand(model.config.vocab_size, places, generator=torch.Generator().manual_seed(0))
        end = draw < chance

        def hook(module: Any, args: Any, kwargs: Any, out: Any) -> None:
            last = kwargs["input_ids"][:, -1], kwargs["position_ids"][:, -1]
            out.logits[:, -1, eos] = torch.where(end[last], torch.inf, -torch.inf)

        return model.register_forward_hook(hook, with_kwargs=True)


def page(section: dict[str, Any]) -> str:
    """How many times faster than the plain loop."""
    a, laps, (correct, plain) = section["arguments"], section["rounds"], section["correct"]
    times = [
        spread(own / other for own, other in (r["train"] for r in laps)),
        spread(other / own for own, other in (r["evaluate"] for r in laps)),
        spread(other / own for own, other in (r["long"] for r in laps)),
    ]
    body = [
        [name, shown(t, "" if t[0] >= goal else " (below)"), f"{goal}"]
        for (name, goal), t in zip(GOALS.items(), times, strict=True)
    ]
    what = (
        f"LoRA on the tiny benchmark, {a['steps']} steps and {a['questions']} questions a round, {len(laps)} rounds. "
        f"The plain loop (tools/benches/_plain.py) trains with PEFT, on shuffled batches, and answers by `generate` in "
        f"batches of 50. Both evaluate the same adapter: {correct} and {plain} answers are correct. In the last row a "
        f"hook ends the answers, at lengths spread like those of GSM8K's solutions ({section['tokens']:.0f} tokens on "
        f"average): {section['alike']} of {a['questions']} texts are the same. {setting(section)}"
    )
    return "\n\n".join([what, "\n".join(grid(["", "times faster than the plain loop", "goal"], body))])
