"""The yardstick of `make bench`: fine-tuning and evaluation as one writes them with PEFT and transformers alone."""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import get_cosine_schedule_with_warmup

from harness.data.tokenize import Example


def collate(examples: list[Example], pad: int) -> dict[str, Tensor]:
    """Rows padded on the right; labels are the response's tokens."""
    ids = [torch.tensor(e.ids) for e in examples]
    labels = [torch.tensor([-100] * e.prompt + list(e.ids[e.prompt :])) for e in examples]
    padded = partial(pad_sequence, batch_first=True)
    return {
        "input_ids": padded(ids, padding_value=pad),
        "attention_mask": padded([torch.ones_like(row) for row in ids]),
        "labels": padded(labels, padding_value=-100),
    }


def train(model: Any, examples: Any, pad: int, *, steps: int, batch_size: int, lr: float) -> tuple[list[float], int]:
    """Loss of each step, and how many tokens were read, without padding."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.1)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    loader = DataLoader(examples, batch_size, shuffle=True, collate_fn=lambda rows: collate(rows, pad))
    losses, tokens = [], 0
    model.train()
    for batch in islice(loader, steps):
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        tokens += int(batch["attention_mask"].sum())
    model.eval()
    return losses, tokens


@torch.no_grad()
def answer(model: Any, tokenizer: Any, prompts: list[str], *, max_new_tokens: int, batch_size: int = 50) -> list[str]:
    """Greedy continuations by `generate`, in batches of the given order, padded on the left."""
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    texts = []
    for start in range(0, len(prompts), batch_size):
        batch = tokenizer(prompts[start : start + batch_size], return_tensors="pt", padding=True, padding_side="left")
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        out = model.generate(**inputs, **special, max_new_tokens=max_new_tokens, do_sample=False)
        texts += tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts
