"""Evaluation's texts on real models are those of one-by-one `generate`, in fp32, up to the scorer's cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import adapters as ad
from harness.config.compose import compositions
from harness.config.validate import job_from
from harness.data.tokenize import prompt_ids
from harness.evaluation.predict import eos_ids, predict
from harness.inputs.base_model import load_model, load_tokenizer
from harness.inputs.rows import read_questions
from harness.paths import ROOT
from harness.scoring import answer_complete, cut

TIE = 1e-4  # a gap between the two largest logits below which either token may come
SMOLLM2 = pytest.mark.skipif(not (ROOT / ".cache" / "smollm2").is_dir(), reason="needs `make smollm2`")
CASES = [
    pytest.param("tiny", 40, 100, "none", id="tiny"),
    pytest.param("tiny", 40, 100, "antipasto_dplr", id="tiny-adapted"),
    pytest.param("smollm2_135m", 40, 64, "none", id="smollm2", marks=SMOLLM2),
]


def alone(model: Any, prompt: list[int], eos: set[int], limit: int) -> tuple[list[int], list[float]]:
    """transformers' own greedy tokens for one prompt, without EOS, and the gap between the two best at each."""
    ids = torch.tensor([prompt])
    done = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        repetition_penalty=1.0,
        max_new_tokens=limit,
        eos_token_id=sorted(eos),
        pad_token_id=min(eos),
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = done.sequences[0, len(prompt) :].tolist()
    best = [step[0].topk(2).values for step in done.logits]
    return tokens[:-1] if tokens[-1] in eos else tokens, [float(b[0] - b[1]) for b in best]


@pytest.mark.slow
@pytest.mark.parametrize(("model_name", "count", "limit", "variant"), CASES)
def test_texts_are_those_of_one_by_one_generate(
    model_name: str, count: int, limit: int, variant: str, tmp_path: Path
) -> None:
    """A text may end earlier, where its answer is complete; a first difference must be a tie."""
    words = ["benchmark=tiny", f"model={model_name}", "model.dtype=float32", f"variant={variant}", "device=cpu"]
    words += [f"eval.max_new_tokens={limit}", "eval.batch_size=8", f"cache_dir={tmp_path}"]
    (cfg,) = compositions(words, multirun=False)
    job = job_from(cfg)
    if model_name != "tiny":
        cfg.cache_dir = ".cache"  # where its weights were unpacked to
        job = job_from(cfg)
    tokenizer, model = load_tokenizer(job.model), load_model(job)
    questions = read_questions(job.test_source, "data.test")[:count]
    with ad.attach(model, job.adapter, seed=0) as handle, torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for p in handle.trainable().values():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
        found = predict(model, tokenizer, questions, job, "test", tmp_path / "p.jsonl", lambda text: None)
        eos = eos_ids(model, tokenizer)
        ended, ties = 0, 0
        for prompt, prediction in zip(
            prompt_ids(job.prompt, [q.text for q in questions], tokenizer), found, strict=True
        ):
            tokens, gaps = alone(model, prompt, eos, limit)
            whole, ours = cut(tokenizer.decode(tokens, clean_up_tokenization_spaces=False)), cut(prediction.text)
            if whole.startswith(ours):
                early = len(ours) < len(whole)
                assert not early or (prediction.finished and answer_complete(prediction.text)), prediction.index
                ended += prediction.finished
                continue
            same = [tokenizer.decode(tokens[:n], clean_up_tokenization_spaces=False) for n in range(len(tokens) + 1)]
            first = next(n for n in range(len(tokens) + 1) if not ours.startswith(same[n])) - 1
            assert gaps[first] < TIE, (prediction.index, first, gaps[first])
            ties += 1
    assert ended > 0  # some end by themselves
    assert ties <= count // 10
