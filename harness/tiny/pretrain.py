"""Pre-training of the embedded base model; `python -m tools.tiny_base` runs it and writes models/tiny."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import asdict
from itertools import accumulate, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from harness.tiny import problems
from harness.tiny.documents import Document, pretraining_documents, text_of
from harness.tiny.recipe import VOCAB_SIZE, Recipe, recipe_hash

SAVE_EVERY = 200  # steps


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


def token_weights(document: Document, offsets: list[tuple[int, int]], noise_weight: float) -> list[float]:
    """The loss weight of each token: 1 in what can be predicted (solutions, results), else `noise_weight`.

    Operands and names are drawn at random, so their loss is noise: down-weighting it makes the arithmetic come sooner.
    """
    ends = list(accumulate(len(text) for text, _ in document))
    worth = [1.0 if predictable else noise_weight for _, predictable in document]
    return [worth[bisect_right(ends, begin)] for begin, _ in offsets]


def packed_rows(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """All token ids and loss weights, (steps·batch_rows, row_tokens) each.

    A row starts with a fresh document, as a prompt does in use; the document that ends a row is cut there.
    """
    rows = recipe.steps * recipe.batch_rows
    ids = torch.empty(rows, recipe.row_tokens, dtype=torch.long)
    weights = torch.empty(rows, recipe.row_tokens)
    count = rows * recipe.row_tokens  # more than enough: the stream is read until the rows are full
    documents = pretraining_documents(recipe.seed, count, *recipe.shares)
    filled = 0
    row: list[int] = []
    row_weights: list[float] = []
    while filled < rows:
        some = list(islice(documents, 4096))
        encodings = tokenizer.backend_tokenizer.encode_batch([text_of(document) for document in some])
        for document, encoding in zip(some, encodings, strict=True):
            row += [*encoding.ids, tokenizer.eos_token_id]
            row_weights += [*token_weights(document, encoding.offsets, recipe.noise_weight), 1.0]
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


def pretrain(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, state_file: Path, report: Callable[[str], None]
) -> Qwen3ForCausalLM:
    """Train from scratch on the loss weighted by `token_weights`; the weights are returned rounded to bf16.

    `state_file` keeps the state each SAVE_EVERY steps; where it is of this recipe, training resumes from it, to the
    same weights.
    """
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
    first = _restore(state_file, recipe, model, optimizer)
    started = time.monotonic()
    for step in range(first, recipe.steps):
        rows = slice(step * recipe.batch_rows, (step + 1) * recipe.batch_rows)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        loss = _loss(model, ids[rows], weights[rows])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == recipe.steps:
            _keep(state_file, recipe, model, optimizer, step + 1)
            seconds = time.monotonic() - started
            report(f"step {step + 1}/{recipe.steps}, loss {loss.item():.4f}, {seconds:.0f} s")
    return model.to(torch.bfloat16).eval()


def _loss(model: Qwen3ForCausalLM, ids: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean cross-entropy of the next token, in nats."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    target_weights = weights[:, 1:].flatten()
    return (losses * target_weights).sum() / target_weights.sum()


def _keep(file: Path, recipe: Recipe, model: Qwen3ForCausalLM, optimizer: torch.optim.Optimizer, step: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {"recipe": recipe_hash(recipe), "step": step, "model": model.state_dict(), "adamw": optimizer.state_dict()}
    torch.save(state, file.with_suffix(".part"))
    os.replace(file.with_suffix(".part"), file)


def _restore(file: Path, recipe: Recipe, model: Qwen3ForCausalLM, optimizer: torch.optim.Optimizer) -> int:
    """The step to start at: 0 where there is no state, or one of another recipe."""
    if not file.is_file():
        return 0
    state = torch.load(file, weights_only=True)
    if state["recipe"] != recipe_hash(recipe):
        return 0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["adamw"])
    return int(state["step"])


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
