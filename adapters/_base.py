"""The base model as `attach` found it: which parameters required gradients, its buffers, and for `full` its weights.

It holds modules and keys, not names: detach restores what is still there, whatever was added, removed or replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from adapters._weights import quantized_biases
from adapters._wrappers import named_modules

Place = tuple[nn.Module, str]  # of a parameter or buffer: the module, and the key there


class BaseState:
    """Copies (in CPU memory) of what a forward or an optimizer step may change, to write back on detach.

    Buffers are those of the state dict: BatchNorm's statistics move in training mode whatever is trained. The others
    belong to Python state (a rotary embedding's frequencies for the lengths seen so far) and are left alone.
    weights: also the parameters, for the variant that trains them.
    """

    def __init__(self, model: nn.Module, *, weights: bool) -> None:
        self.weights = weights
        self.flags: list[tuple[nn.Module, str, nn.Parameter, bool]] = []
        self.biases = [(bias, bias.data) for bias in quantized_biases(model)]
        self.buffers = state_buffers(model)
        self.copies: dict[Place, Tensor] = {(m, key): _copy(getattr(m, key)) for m, key in self.buffers.values()}
        for _, m in named_modules(model):
            self.flags += [(m, key, p, p.requires_grad) for key, p in m._parameters.items() if p is not None]
        tied: set[nn.Parameter] = set()
        for m, key, p, _ in self.flags if weights else ():
            if p not in tied:
                tied.add(p)
                self.copies[m, key] = _copy(p)

    def changed_buffers(self) -> dict[str, Tensor]:
        """Name → present value, of the buffers that are not what they were."""
        present = {n: (m, key) for n, (m, key) in self.buffers.items() if hasattr(m, key)}
        return {n: getattr(m, key) for n, (m, key) in present.items() if not _same(m, key, self.copies[m, key])}

    def restore(self) -> None:
        """Writes back what differs and gives every parameter its flag; the second time there is nothing to do."""
        copies, flags, biases = self.copies, self.flags, self.biases
        self.copies, self.flags, self.biases = {}, [], []
        _write(copies)
        for m, key, p, requires_grad in flags:
            now = m._parameters.get(key)  # another object than p after load_state_dict(assign=True)
            for q in (p,) if now is None else (p, now):
                q.requires_grad_(requires_grad)
                if self.weights:
                    q.grad = None
        for bias, values in biases:
            if bias.dtype != values.dtype:  # a forward of bitsandbytes cast it
                bias.data = values.to(bias.device)

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """The copied values for the length of the block, then the present ones again (unless `restore` was called)."""
        trained = {(m, key): _copy(getattr(m, key)) for m, key in self.copies if hasattr(m, key)}
        _write(self.copies)
        try:
            yield
        finally:
            _write({place: value for place, value in trained.items() if place in self.copies})


def state_buffers(model: nn.Module) -> dict[str, Place]:
    """Name → place of the buffers in the model's state dict."""
    return {
        f"{name}.{key}" if name else key: (m, key)
        for name, m in named_modules(model)
        for key, b in m._buffers.items()
        if b is not None and not b.is_meta and key not in m._non_persistent_buffers_set
    }


def _copy(t: Tensor) -> Tensor:
    return t.detach().to("cpu", copy=True)


def _same(m: nn.Module, key: str, copy: Tensor) -> bool:
    """Bit for bit, in the present dtype: 0 and −0 differ, NaN equals itself."""
    now = getattr(m, key)
    return now.shape == copy.shape and torch.equal(_bits(now), _bits(copy.to(now.dtype)))


def _bits(t: Tensor) -> Tensor:
    return t.detach().cpu().contiguous().flatten().view(torch.uint8)


@torch.no_grad()
def _write(copies: dict[Place, Tensor]) -> None:
    for (m, key), copy in copies.items():
        now = getattr(m, key, None)
        if isinstance(now, Tensor) and now.shape == copy.shape and not _same(m, key, copy):
            now.copy_(copy)
