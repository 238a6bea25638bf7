"""What fine-tuning costs elsewhere: nats per token on a pinned text that is not the task, adapter on − adapter off."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

import adapters as ad
from harness.errors import refuse
from harness.loss import label_loss_sum
from harness.paths import ROOT

STORIES = 200


def pinned_texts(source: str) -> list[str]:
    """The paragraphs of a text file, or `generated:stories`: stories that the tiny base model was not trained on."""
    if source == "generated:stories":
        from harness.tiny.documents import held_out_stories

        return held_out_stories(STORIES)
    path = ROOT / source
    if not path.is_file():
        raise refuse("benchmark.forgetting_text", "no such file", got=source, expected="a text file")
    paragraphs = [p.strip() for p in path.read_text(encoding="utf-8").split("\n\n") if p.strip()]
    if not paragraphs:
        raise refuse("benchmark.forgetting_text", "no text in this file", got=source, expected="paragraphs of text")
    return paragraphs


def texts_sha256(texts: list[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def positions_of(model: Any) -> int | None:
    """The longest text that the model can read, in tokens; None where it has no limit, as with ALiBi."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


@torch.no_grad()
def nats_per_token(model: Any, tokenizer: Any, texts: list[str], device: str) -> float:
    """Mean −log p per token, each text from its second token on, cut where the model's positions end.

    One text per forward, so that nothing is padded.
    """
    total, count, limit = 0.0, 0, positions_of(model)
    with ad.frozen(model):
        for text in texts:
            ids = torch.tensor([tokenizer(text)["input_ids"][:limit]], device=device)
            labels = torch.arange(1, ids.shape[1], device=device)
            if len(labels):
                total += float(label_loss_sum(model, ids, labels))
                count += len(labels)
    return total / count
