"""Decoding with the fixed shapes of CUDA graphs. On a CPU a plain call stands for the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import adapters as ad
from harness.errors import BadInput
from harness.evaluation import graphs, kv_cache
from harness.evaluation.generate import generate

PROMPTS = [[2 + (7 * n + k) % 90 for k in range(1 + 13 * n % 37)] for n in range(14)]


@pytest.mark.parametrize("batch_size", [14, 4])  # all at once; few slots, which are refilled
def test_texts_are_those_of_the_ordinary_step(model: Any, batch_size: int, monkeypatch: Any) -> None:
    captures: list[int] = []

    def plain(call: Callable[[], None], state: Tensor) -> Callable[[], object]:
        captures.append(len(state))
        before = state.clone()
        call()  # as `captured` does, ahead of the step itself
        state.copy_(before)
        return call

    monkeypatch.setattr(graphs, "captured", plain)
    monkeypatch.setattr(kv_cache, "STEP", 8)
    with ad.attach(model, ad.LoRAConfig(r=4), seed=0) as handle, torch.no_grad():
        for p in handle.trainable().values():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        settings: Any = {"pad": 1, "batch_size": batch_size, "max_new_tokens": 40, "complete": lambda tokens: False}
        free = generate(model, PROMPTS, eos={0}, **settings)
        emitted = [t for g in free for t in g.tokens[2:]]
        settings["eos"] = {0, *sorted(set(emitted), key=lambda t: (-emitted.count(t), t))[2:4]}  # lengths then differ
        expected = generate(model, PROMPTS, **settings)
        assert generate(model, PROMPTS, graphs=True, **settings) == expected
    assert len({len(g.tokens) for g in expected}) > 3
    assert set(captures) == {batch_size}
    assert 1 < len(captures) < sum(len(g.tokens) for g in expected) / batch_size  # when the buffers move, no oftener


def test_a_model_that_makes_its_own_mask_is_refused(model: Any) -> None:
    model.config.sliding_window = 8
    with pytest.raises(BadInput, match=r"eval\.graphs: this model makes its own attention mask"):
        generate(model, PROMPTS, eos={0}, pad=1, batch_size=4, max_new_tokens=2, complete=lambda t: False, graphs=True)


def test_refused_without_cuda(small_job: Any) -> None:
    with pytest.raises(BadInput, match=r"eval\.graphs: needs a CUDA device.*got 'device=cpu quantization=none'"):
        small_job("eval.graphs=true", "device=cpu")
