"""What would fail or mislead only after training is refused before it: tokens, positions, loss and cached decoding."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from harness.config.job import Job
from harness.data.batches import pad_id
from harness.data.load import Data
from harness.data.token_cache import Examples, lengths_of
from harness.data.tokenize import prompt_ids
from harness.errors import BadInput, refuse
from harness.evaluation.forgetting import positions_of
from harness.evaluation.generate import Batch, Row
from harness.evaluation.response_loss import reference_texts
from harness.loss import label_loss_sum

# Largest rms difference of two ways to the same logits, as a share of their spread. A wrong context or position is
# off by 0.1 to 2 even in random models; rounding is below 1e-5 in fp32 and near 1e-2 in bf16. In 8-bit a row depends on
# its batch: which columns count as outliers is decided over all rows.
FINE, COARSE, LLM_INT8 = 1e-3, 0.1, 0.3


def check_model(model: Any, tokenizer: Any, data: Data, job: Job) -> None:
    """Raises BadInput where the model cannot take the data's tokens or lengths, be trained or be decoded here."""
    prompts = prompt_ids(job.prompt, [q.text for q in data.valid + data.test], tokenizer)
    _check_tokens(model, tokenizer, data, prompts, job)
    _check_positions(model, data, prompts, job)
    check_logits(model, pad_id(tokenizer), job)


def _check_tokens(model: Any, tokenizer: Any, data: Data, prompts: list[list[int]], job: Job) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    trained = data.train.largest_id if isinstance(data.train, Examples) else 0
    references = reference_texts(data.valid + data.test, job.prompt, tokenizer)
    read = [*prompts, *(text.ids for text in references if text is not None)]
    largest = max(trained, tokenizer.eos_token_id, *map(max, read))
    if largest >= rows:
        what = f"token {tokenizer.convert_ids_to_tokens(largest)!r} lies outside the embedding of {rows} rows"
        remedy = "Give the tokenizer that belongs to this model."
        raise refuse("model.id", what, got=largest, expected=f"< {rows}", remedy=remedy)


def _check_positions(model: Any, data: Data, prompts: list[list[int]], job: Job) -> None:
    limit = positions_of(model)
    if limit is None:
        return
    longest = max((len(p) for p in prompts), default=0) + job.max_new_tokens
    if longest > limit:
        what = f"the longest prompt and its answer have more tokens than {job.model.id} has positions"
        raise refuse("eval.max_new_tokens", what, got=longest, expected=f"<= {limit}", remedy="Lower it.")
    if len(data.train) and (longest := int(lengths_of(data.train).max())) > limit:
        what = f"training texts have more tokens than {job.model.id} has positions"
        remedy = f"Set it to {limit}: longer texts are dropped and counted."
        raise refuse("benchmark.max_length", what, got=longest, expected=f"<= {limit}", remedy=remedy)


@torch.no_grad()  # not inference_mode: 8-bit layers keep tensors of their first forward for training
def check_logits(model: Any, pad: int, job: Job) -> None:
    """Raises BadInput where the loss, or decoding of padded rows from a cache, is not what a full forward gives."""
    exact = job.model.dtype == "float32" and job.quantization == "none"
    limit = LLM_INT8 if job.quantization == "8bit" else FINE if exact else COARSE
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(vocabulary, (n,), generator=generator).tolist() for n in (11, 7)]
    try:
        full = [model(input_ids=torch.tensor([r], device=job.device), use_cache=False).logits[0].float() for r in rows]
        ids = torch.tensor([rows[0]], device=job.device)
        expected = F.cross_entropy(full[0][:-1], ids[0, 1:], reduction="sum")
        loss = label_loss_sum(model, ids, torch.arange(1, len(rows[0]), device=job.device))
        if not abs(float(loss / expected) - 1) < limit:
            raise _refusal(model, job, "the loss at label positions is not the model's own", float(loss / expected))
        decoded = _decoded(model, rows, pad, job.device)
        off = float(torch.stack([_error(logits, full[row][at]) for row, at, logits in decoded]).max())
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, AttributeError, IndexError, KeyError, RuntimeError, NotImplementedError) as error:
        reason = str(error).split("\n")[0][:120] or type(error).__name__
        raise _refusal(model, job, f"cannot be decoded in batches here ({reason})") from None
    if not off < limit:
        raise _refusal(model, job, "decoding padded rows from a cache differs from a full forward", off)


def _decoded(model: Any, rows: list[list[int]], pad: int, device: str) -> list[tuple[int, int, Tensor]]:
    """(row, position, logits (V,)) of two rows by all that evaluation does: join, pad, decode, drop."""
    batch, seen = Batch(model, device, pad, len(rows)), []
    logits: list[Float[Tensor, "B V"]] = []

    def record(*args: Any) -> Tensor:
        logits.append(forward(*args))
        return logits[-1]

    forward, batch._forward = batch._forward, record  # type: ignore[method-assign, assignment]
    at = [len(row) - 3 for row in rows]  # what is known of each row; the rest is fed token by token
    batch.admit([Row(0, rows[0][: at[0]])])
    batch.admit([Row(1, rows[1][: at[1]])])
    seen += [(n, at[n] - 1, logits[n][0]) for n in (0, 1)]
    for kept in ([0, 1], [1]):
        if len(kept) < len(batch.rows):
            batch.drop(kept)
        batch.next = torch.tensor([rows[n][at[n]] for n in kept], device=device)
        batch.advance()
        seen += [(n, at[n], logits[-1][place]) for place, n in enumerate(kept)]
        at = [a + 1 for a in at]
    return seen


def _error(logits: Float[Tensor, " V"], expected: Float[Tensor, " V"]) -> Float[Tensor, ""]:
    """rms difference as a share of the spread; NaN where either is not finite."""
    return (logits.float() - expected).square().mean().sqrt() / expected.std()


def _refusal(model: Any, job: Job, what: str, got: float | None = None) -> BadInput:
    kind, remedy = type(model).__name__, "Choose a decoder with plain attention layers, as Qwen3, Llama or Gemma."
    expected = "an architecture that trains and decodes here"
    return refuse(
        "model.id", f"{kind}: {what}", got=job.model.id if got is None else got, expected=expected, remedy=remedy
    )
