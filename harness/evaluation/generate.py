"""Greedy decoding of many prompts: finished rows leave the batch, waiting prompts take their places.

Nothing of the model's own generation_config is used: no sampling, no penalties. In fp32 every text equals what
one-by-one greedy decoding gives, up to ties.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

import adapters as ad

CHECK_EVERY = 8  # tokens of a row between looks at its text: decoding at every one would cost more than it saves
REFILL = 0.75  # share of busy rows below which waiting prompts are let in: a prefill for one row wastes a batch


def eos_ids(model: Any, tokenizer: Any) -> set[int]:
    """Every id that ends a text: the tokenizer's, and all of the model's generation_config and config.

    Training texts end with the tokenizer's; instruction-tuned bases end their turns with another one.
    """
    configs = [getattr(model, "generation_config", None), getattr(model, "config", None)]
    ids: list[Any] = [tokenizer.eos_token_id]
    for configured in (getattr(c, "eos_token_id", None) for c in configs):
        ids += configured if isinstance(configured, list) else [configured]
    return {int(i) for i in ids if i is not None}


@dataclass
class Row:
    """One prompt in work: its place in the caller's list and the tokens generated so far."""

    index: int
    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    finished: bool = False  # EOS, or the text is complete for the scorer


@dataclass(frozen=True)
class Generated:
    """tokens: the continuation without EOS. finished: it ended by itself within the limit."""

    tokens: list[int]
    finished: bool


class Batch:
    """Rows that decode together: left-padded key/value cache, attention mask and positions."""

    def __init__(self, model: Any, device: str, pad: int) -> None:
        self.model, self.device, self.pad = model, device, pad
        self.rows: list[Row] = []
        self.cache: Any = None
        self.mask = torch.zeros(0, 0, dtype=torch.long, device=device)  # (B, T)
        self.next = torch.zeros(0, dtype=torch.long, device=device)  # (B,)

    def admit(self, rows: list[Row]) -> None:
        """Prefills new rows and joins them with those in work."""
        width = max(len(r.prompt) for r in rows)
        ids = torch.full((len(rows), width), self.pad)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for k, r in enumerate(rows):
            ids[k, width - len(r.prompt) :] = torch.tensor(r.prompt)
            mask[k, width - len(r.prompt) :] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        cache = DynamicCache()
        following = self._forward(ids, mask, cache, (mask.cumsum(1) - 1).clamp_min(0)).argmax(-1)
        if self.rows:
            _join(self.cache, cache, self.mask.shape[1], width)
            total = max(self.mask.shape[1], width)
            self.mask = torch.cat([_left_pad(self.mask, total), _left_pad(mask, total)])
            self.next = torch.cat([self.next, following])
        else:
            self.cache, self.mask, self.next = cache, mask, following
        self.rows += rows

    def step(self, eos: set[int], complete: Callable[[list[int]], bool]) -> None:
        """Appends the pending token to every row that is not finished.

        Whether a row is finished depends on its own tokens alone, so texts are the same in any batch.
        """
        for row, token in zip(self.rows, self.next.tolist(), strict=True):
            if row.finished:  # in fixed batches it waits for the others
                continue
            row.tokens.append(token)
            row.finished = token in eos or (len(row.tokens) % CHECK_EVERY == 0 and complete(row.tokens))

    def advance(self) -> None:
        """Feeds the pending tokens and computes the next ones."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.rows), 1)], dim=1)
        positions = self.mask.sum(1, keepdim=True) - 1
        self.next = self._forward(self.next[:, None], self.mask, self.cache, positions).argmax(-1)

    def drop(self, keep: list[int]) -> None:
        """Keeps the rows at these places, and cuts columns that are padding in all of them."""
        self.rows = [self.rows[k] for k in keep]
        index = torch.tensor(keep, dtype=torch.long, device=self.device)
        self.next, self.mask = self.next[index], self.mask[index]
        start = int(self.mask.any(0).int().argmax()) if keep else 0
        self.mask = self.mask[:, start:]
        for layer in self.cache.layers:
            layer.keys, layer.values = layer.keys[index, :, start:], layer.values[index, :, start:]

    def _forward(
        self, ids: Int[Tensor, "B n"], mask: Int[Tensor, "B T"], cache: Any, positions: Int[Tensor, "B n"]
    ) -> Float[Tensor, "B V"]:
        """Logits of the token after each row."""
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = out.logits[:, -1]
        return logits


@torch.inference_mode()
def generate(
    model: Any,
    prompts: list[list[int]],
    *,
    eos: set[int],
    pad: int,
    batch_size: int,
    max_new_tokens: int,
    complete: Callable[[list[int]], bool],
    compact: bool = True,
    device: str = "cpu",
    answered: Callable[[int], None] = lambda count: None,
) -> list[Generated]:
    """Continuations of all prompts, in their order, which is also the order of their turns.

    complete: whether these tokens hold a whole answer already. answered: told how many more prompts are done.
    compact=False keeps batches fixed from start to end (8-bit kernels make a row depend on its batch).
    """
    waiting = [Row(n, p) for n, p in enumerate(prompts)]
    done: dict[int, Row] = {}
    batch = Batch(model, device, pad)
    with ad.frozen(model):
        while waiting or batch.rows:
            room = batch_size - len(batch.rows)
            if waiting and (not batch.rows or (compact and len(batch.rows) <= REFILL * batch_size)):
                batch.admit(waiting[:room])
                waiting = waiting[room:]
            batch.step(eos, complete)
            over = [r.finished or len(r.tokens) >= max_new_tokens for r in batch.rows]
            leave = over if compact else [all(over)] * len(over)
            done |= {r.index: r for r, out in zip(batch.rows, leave, strict=True) if out}
            if any(leave):
                answered(sum(leave))
                batch.drop([k for k, out in enumerate(leave) if not out])
            if batch.rows:
                batch.advance()
    return [_without_eos(done[n], eos) for n in range(len(prompts))]


def _without_eos(row: Row, eos: set[int]) -> Generated:
    ended = bool(row.tokens) and row.tokens[-1] in eos
    return Generated(row.tokens[:-1] if ended else row.tokens, row.finished)


def _left_pad(mask: Int[Tensor, "B t"], width: int) -> Int[Tensor, "B T"]:
    return torch.nn.functional.pad(mask, (width - mask.shape[1], 0))


def _join(cache: Any, new: Any, width: int, new_width: int) -> None:
    """Puts the new rows' keys and values under those in work, both padded on the left to the longer of the two."""
    total = max(width, new_width)
    for old, fresh in zip(cache.layers, new.layers, strict=True):
        for name in ("keys", "values"):
            top, bottom = getattr(old, name), getattr(fresh, name)  # (B, heads, T, d)
            top = torch.nn.functional.pad(top, (0, 0, total - width, 0))
            bottom = torch.nn.functional.pad(bottom, (0, 0, total - new_width, 0))
            setattr(old, name, torch.cat([top, bottom]))
