"""Forgetting: the change in nats per token on a pinned text that is not the task."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import adapters as ad
from harness.errors import BadInput
from harness.evaluation.forgetting import nats_per_token, pinned_texts, texts_sha256
from harness.run import run
from harness.tiny.documents import pretraining_documents, text_of
from harness.tiny.recipe import Recipe
from tests.conftest import run_id_of, science_of
from tools.probe_quantized import QUANTIZATIONS, quantized_model

GENERAL = "harness/texts/general.txt"


class Bytes:
    """A tokenizer for models of 128 ids."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [b % 128 for b in text.encode()][:40]}


def test_it_is_the_mean_over_tokens_of_the_models_own_loss(model: Any, tokenizer: Any) -> None:
    """Against full logits, text by text: every token but a text's first is a target, and nothing is padded."""
    texts = ["Some text that is not the task.", "A"]  # the second has no target at all
    ids = torch.tensor([tokenizer(texts[0])["input_ids"]])
    with torch.no_grad():
        expected = F.cross_entropy(model(ids).logits[0, :-1].double(), ids[0, 1:])
    assert nats_per_token(model, tokenizer, texts, "cpu") == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("quantization", ["none", *QUANTIZATIONS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_is_exactly_zero_where_nothing_has_changed(quantization: str, dtype: torch.dtype) -> None:
    """Off, attached but untrained, trained, and off again: equal, equal, different, equal to the last bit."""
    model, texts = quantized_model(quantization, dtype=dtype), pinned_texts(GENERAL)[:3]
    off = nats_per_token(model, Bytes(), texts, "cpu")
    with ad.attach(model, ad.LoRAConfig(r=4, alpha=8.0), seed=0) as handle:
        assert nats_per_token(model, Bytes(), texts, "cpu") == off
        with torch.no_grad():
            for p in handle.trainable().values():
                p.add_(0.1)
        assert nats_per_token(model, Bytes(), texts, "cpu") != off
    assert nats_per_token(model, Bytes(), texts, "cpu") == off


def test_texts_are_cut_where_the_positions_end(tokenizer: Any) -> None:
    """GPT-2 has an embedding per position, and none beyond."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=20, n_embd=16, n_layer=1, n_head=2)
    model = GPT2LMHeadModel(config).eval()
    long, short = "A text of many more bytes than twenty.", "Short."
    cut = tokenizer.decode(tokenizer(long)["input_ids"][:20])
    assert nats_per_token(model, tokenizer, [long, short], "cpu") == nats_per_token(
        model, tokenizer, [cut, short], "cpu"
    )


def test_the_untrained_base_forgets_nothing(small_job: Any) -> None:
    assert run(small_job("variant=none"))["forgetting"]["nats"] == 0.0


def test_the_text_is_pinned(small_job: Any, data_dir: Path, tmp_path: Path) -> None:
    """A changed text is another setting of the run, and an empty one is refused."""

    job = small_job()
    changed = tmp_path / "other.txt"
    changed.write_text((data_dir / "other.txt").read_text() + "\n\nOne paragraph more.")
    other = small_job(f"benchmark.forgetting_text={changed}")
    assert science_of(job)["forgetting_text"] != science_of(other)["forgetting_text"]
    assert run_id_of(job) != run_id_of(other)
    assert len(pinned_texts(GENERAL)) == 20
    assert texts_sha256(["a", "b"]) != texts_sha256(["ab"])
    changed.write_text("\n\n")
    with pytest.raises(BadInput, match="no text in this file"):
        pinned_texts(str(changed))


def test_the_embedded_benchmarks_text_is_neither_the_task_nor_in_pretraining() -> None:
    """Stories without a number or any of the prompt's and the response's words; none of them in pre-training."""
    texts = pinned_texts("generated:stories")
    assert len(texts) == 200
    assert len(set(texts)) > 190
    assert not re.search(r"[0-9?]|Question|Answer|Problem|Solution|####|answer is|How many", "\n".join(texts))
    read = {text_of(d) for d in pretraining_documents(Recipe().seed, 60_000, *Recipe().shares)}
    stories = {text for text in read if text.count(".") == 4 and not re.search(r"[0-9?]", text)}
    assert len(stories) > 2_000
    assert stories.isdisjoint(texts)
