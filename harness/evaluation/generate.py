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

import adapters as ad
from harness.errors import refuse
from harness.evaluation.graphs import FixedStep
from harness.evaluation.kv_cache import KeyValueCache, additive, takes_additive_mask
from harness.evaluation.onednn import onednn_linears

CHECK_EVERY = 8  # tokens of a row between looks at its text: decoding at every one would cost more than it saves
PREFILL = 1024  # tokens of a prefill on a CPU, whose caches hold their activations; of 5,000, elementwise work takes 4×
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
    start: int = 0  # the cache's column of its first token


@dataclass(frozen=True)
class Generated:
    """tokens: the continuation without EOS. finished: it ended by itself within the limit."""

    tokens: list[int]
    finished: bool


class Batch:
    """Rows that decode together, padded on the left: their key/value cache, mask and positions."""

    def __init__(
        self, model: Any, device: str, pad: int, slots: int, prefill: int | None = None, *, graphs: bool = False
    ) -> None:
        self.model, self.device, self.pad, self.prefill = model, device, pad, prefill
        self.rows: list[Row] = []
        self.cache = KeyValueCache(slots)
        self.end = 0  # the cache's column of the pending tokens
        self.next = torch.zeros(0, dtype=torch.long, device=device)  # (B,)
        self.additive = takes_additive_mask(model)
        if graphs and not self.additive:
            raise refuse("eval.graphs", "this model makes its own attention mask", remedy="Use eval.graphs=false.")
        self.fixed = FixedStep(self._forward, self.cache, device) if graphs else None
        self.align = 1 if device == "cpu" else 8  # columns: CUDA's memory-efficient attention aligns masks to 16 bytes

    def admit(self, rows: list[Row]) -> None:
        """Prefills new rows, in groups of at most `prefill` tokens, and joins them with those in work."""
        for r in rows:
            r.start = self.end - len(r.prompt)
        before, self.rows = len(self.rows), self.rows + rows
        self.cache.reserve(min(r.start for r in self.rows), self.end, before)
        longest = max(len(r.prompt) for r in rows)
        size = max(1, self.prefill // longest) if self.prefill else len(rows)
        following = [self._prefill(k, self.rows[k : k + size]) for k in range(before, len(self.rows), size)]
        self.next = torch.cat([self.next, *following])
        self._lay_out()

    def _prefill(self, place: int, rows: list[Row]) -> Int[Tensor, " n"]:
        """The tokens after the prompts of these rows, the first of which has this place in the batch."""
        width = max(len(r.prompt) for r in rows)
        padding = [width - len(r.prompt) for r in rows]
        padded = [[self.pad] * n + r.prompt for n, r in zip(padding, rows, strict=True)]
        positions = torch.arange(width, device=self.device) - torch.tensor(padding, device=self.device)[:, None]
        mask = (positions >= 0).long() if any(padding) else None
        w = self.cache.window
        w.top, w.first, w.seen = place, self.end - width, 0
        return self._forward(torch.tensor(padded, device=self.device), mask, positions.clamp_min(0)).argmax(-1)

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
        """Feeds the pending tokens and computes the next ones. Only `step` makes the host wait for the device."""
        w = self.cache.window
        if self.cache.reserve(self.first, self.end + 1, len(self.rows)):
            self._set_mask()
        w.top, w.first, w.seen = 0, self.first, self.end - self.first
        if self.fixed:
            self.next = self.fixed(self.next, self.starts, self.end)
        else:
            mask = None if self.mask is None else self.mask[..., self.first - w.origin : self.end + 1 - w.origin]
            self.next = self._forward(self.next[:, None], mask, self.end - self.starts).argmax(-1)
        self.end += 1

    def drop(self, keep: list[int]) -> None:
        """Keeps the rows at these places, in ascending order; the last of them move into the gaps."""
        free = sorted(set(range(len(keep))) - set(keep))
        order = list(range(len(keep)))
        for gap, place in zip(free, keep[len(keep) - len(free) :], strict=True):
            order[gap] = place
        self.rows = [self.rows[k] for k in order]
        index = torch.tensor(order, dtype=torch.long, device=self.device)
        self.next = self.next[index]
        if free:
            gaps = torch.tensor(free, device=self.device)
            self.cache.copy_rows(index[gaps], gaps, self.first, self.end)
        if keep:
            self._lay_out()

    def _lay_out(self) -> None:
        """The rows' columns, which change only when rows come or go."""
        starts, origin = [r.start for r in self.rows], self.cache.window.origin
        self.first = min(starts) - (min(starts) - origin) % self.align
        self.starts = torch.tensor(starts, device=self.device)[:, None]  # (B, 1)
        self.padded = self.first < max(starts)
        self._set_mask()

    def _set_mask(self) -> None:
        """For all columns of the buffers, (B, T) or additive; None where no row is padded."""
        w, self.mask = self.cache.window, None
        if self.padded:
            real = torch.arange(w.origin, w.origin + w.columns, device=self.device) >= self.starts
            self.mask = additive(real, self.cache.layers[0].keys.dtype) if self.additive else real.long()

    def _forward(
        self, ids: Int[Tensor, "B n"], mask: Tensor | None, positions: Int[Tensor, "B n"]
    ) -> Float[Tensor, "B V"]:
        """Logits of the token after each row."""
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
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
    graphs: bool = False,
    device: str = "cpu",
    answered: Callable[[int], None] = lambda count: None,
) -> list[Generated]:
    """Continuations of all prompts, in their order, which is also the order of their turns.

    complete: whether these tokens hold a whole answer already. answered: told how many more prompts are done.
    compact=False keeps batches fixed from start to end (8-bit kernels make a row depend on its batch). graphs: decode
    by CUDA graphs.
    """
    waiting = [Row(n, p) for n, p in enumerate(prompts)]
    done: dict[int, Row] = {}
    # In 8-bit a row depends on its batch, which must stay whole; a GPU gains nothing from small prefills.
    prefill = PREFILL if compact and device == "cpu" else None
    batch = Batch(model, device, pad, min(batch_size, len(prompts)), prefill, graphs=graphs)
    with ad.frozen(model), onednn_linears(model):
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
