"""Decoding steps as CUDA graphs: one launch replays a forward of a thousand kernels (`eval.graphs`). Not measured yet.

A graph has fixed shapes and addresses. A step therefore computes all slots and all columns of the buffers, in use or
not, and is captured anew when the buffers move: at a batch's beginning and every 64 tokens or so.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.evaluation.kv_cache import KeyValueCache, additive


class FixedStep:
    """One token for every slot of a cache. Texts are those of the ordinary step, up to ties: sums run over more zeros.

    The model must take an additive mask, and its forward must not make the host wait.
    """

    def __init__(self, logits: Callable[..., Float[Tensor, "B V"]], cache: KeyValueCache, device: str) -> None:
        """logits: of the tokens after ids (B, 1), from an additive mask and positions (B, 1)."""
        self.logits, self.cache = logits, cache
        slots = cache.window.slots
        self.ids = torch.zeros(slots, dtype=torch.long, device=device)  # the pending tokens, then the next ones
        self.starts = torch.zeros(slots, dtype=torch.long, device=device)  # columns of the buffers
        self.place = torch.zeros(1, dtype=torch.long, device=device)  # the column of the pending tokens
        self.buffers: list[int] = []
        self.replay: Callable[[], object] = self.forward

    def __call__(self, ids: Int[Tensor, " B"], starts: Int[Tensor, "B 1"], end: int) -> Int[Tensor, " B"]:
        """The tokens after `ids`, which are in column `end` of rows that begin at `starts`."""
        window, rows = self.cache.window, len(ids)
        self.place.fill_(end - window.origin)
        self.starts.fill_(end - window.origin)  # a slot without a row sees its own token alone
        self.starts[:rows] = starts[:, 0] - window.origin
        self.ids[:rows] = ids
        window.place = self.place
        buffers = [layer.keys.data_ptr() for layer in self.cache.layers]
        if buffers != self.buffers:
            self.buffers, self.replay = buffers, captured(self.forward, self.ids)
        self.replay()
        window.place = None
        return self.ids[:rows].clone()

    def forward(self) -> None:
        columns = torch.arange(self.cache.window.columns, device=self.ids.device)
        real = (columns >= self.starts[:, None]) & (columns <= self.place)
        mask, positions = additive(real, self.cache.layers[0].keys.dtype), (self.place - self.starts)[:, None]
        self.ids.copy_(self.logits(self.ids[:, None], mask, positions).argmax(-1))


def captured(call: Callable[[], None], state: Tensor) -> Callable[[], object]:
    """`call` as a graph. It runs twice before, for kernels to choose algorithms; `state` is put back after that."""
    before, stream = state.clone(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            call()
            state.copy_(before)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
