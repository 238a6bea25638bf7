"""Pre-training of the embedded base model; `python -m tools.tiny_base` runs it and writes models/tiny."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from harness.tiny import problems
from harness.tiny.recipe import VOCAB_SIZE, Recipe


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """The untrained model, fp32."""
    torch.manual_seed(recipe.seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCAB_SIZE,
            hidden_size=recipe.hidden_size,
            intermediate_size=recipe.intermediate_size,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            head_dim=recipe.head_dim,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def answer_weights(text: str, offsets: list[tuple[int, int]], noise_weight: float) -> list[float]:
    """The loss weight of each token: 1 in worked solutions and in the results of bare equations, else `noise_weight`.

    Operands and names are drawn at random, so their loss is noise: down-weighting it makes the arithmetic come sooner.
    """
    start = text.find("Answer:")
    if start >= 0:
        return [1.0 if begin > start + len("Answer") else noise_weight for begin, _ in offsets]
    return [1.0 if text.rfind("=", 0, begin) > text.rfind("\n", 0, begin) else noise_weight for begin, _ in offsets]


def packed_rows(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """All token ids and loss weights, (steps·batch_rows, row_tokens) each.

    A row starts with a fresh document, as a prompt does in use; the document that ends a row is cut there.
    """
    rows = recipe.steps * recipe.batch_rows
    ids = torch.empty(rows, recipe.row_tokens, dtype=torch.long)
    weights = torch.empty(rows, recipe.row_tokens)
    count = rows * recipe.row_tokens  # more than enough: the stream is read until the rows are full
    documents = problems.pretraining_documents(recipe.seed, count, recipe.bare_share, recipe.formula_share)
    filled = 0
    row: list[int] = []
    row_weights: list[float] = []
    while filled < rows:
        texts = list(islice(documents, 4096))
        for text, encoding in zip(texts, tokenizer.backend_tokenizer.encode_batch(texts), strict=True):
            row += [*encoding.ids, tokenizer.eos_token_id]
            row_weights += [*answer_weights(text, encoding.offsets, recipe.noise_weight), 1.0]
            if len(row) >= recipe.row_tokens and filled < rows:
                ids[filled] = torch.tensor(row[: recipe.row_tokens])
                weights[filled] = torch.tensor(row_weights[: recipe.row_tokens])
                filled, row, row_weights = filled + 1, [], []
    return ids, weights


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then cosine to a twentieth."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def pretrain(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, report: Callable[[str], None]) -> Qwen3ForCausalLM:
    """Train from scratch on the loss weighted by `answer_weights`; the weights are returned rounded to bf16."""
    torch.set_num_threads(recipe.threads)
    ids, weights = packed_rows(recipe, tokenizer)
    model = build_model(recipe, tokenizer).train()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=recipe.lr,
        betas=(0.9, 0.95),
    )
    report(f"{sum(p.numel() for p in model.parameters()):,} parameters, {ids.numel():,} tokens")
    started = time.monotonic()
    batches = zip(ids.split(recipe.batch_rows), weights.split(recipe.batch_rows), strict=True)
    for step, (batch, weight) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
        losses = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
        target_weight = weight[:, 1:].flatten()
        loss = (losses * target_weight).sum() / target_weight.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 200 == 0 or step == recipe.steps - 1:
            seconds = time.monotonic() - started
            speed = (step + 1) * batch.numel() / seconds
            report(f"step {step}/{recipe.steps} loss {loss.item():.4f} {seconds:.0f} s {speed:.0f} tokens/s")
    return model.to(torch.bfloat16).eval()


def write(
    folder: Path, recipe: Recipe, digest: str, tokenizer: PreTrainedTokenizerFast, model: Qwen3ForCausalLM
) -> None:
    """Replace the files in `folder`, each atomically; recipe.json, with `digest`, is last: `check` fails until then."""
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        record = {
            "recipe_hash": digest,
            "recipe": asdict(recipe),
            "spec": problems.SPEC,
            "counts": {
                "train_rows": len(problems.train_rows()),
                "question_rows": len(problems.question_rows()),
                "test_rows": len(problems.test_rows()),
                "pretraining_tokens": recipe.steps * recipe.batch_rows * recipe.row_tokens,
                "parameters": sum(p.numel() for p in model.parameters()),
            },
        }
        (folder / "recipe.json").unlink(missing_ok=True)
        for path in sorted(Path(scratch).iterdir()):
            path.chmod(0o644)
            os.replace(path, folder / path.name)
        final = Path(scratch) / "recipe.json"
        final.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        os.replace(final, folder / "recipe.json")
