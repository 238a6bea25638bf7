"""oneDNN's linear layers: the same numbers up to rounding, hooks and all, and only inside the block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import adapters as ad
from harness.evaluation.generate import generate
from harness.evaluation.onednn import onednn_linears

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs a torch with oneDNN")


class Other(nn.Linear):
    """Stands for a quantized layer."""


def replaced(model: nn.Module) -> list[str]:
    return [n for n, m in model.named_modules() if "forward" in vars(m)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 300), (130, 1, 300), (3, 70, 300)])
@torch.no_grad()
def test_values_are_the_layers_own_up_to_rounding(bias: bool, shape: tuple[int, ...]) -> None:
    """Against fp64, also for a strided input, and no further off than ATen's own product."""
    torch.manual_seed(0)
    layer = nn.Linear(300, 170, bias=bias)
    for x in (torch.randn(shape), torch.randn(*shape[:-1], 600)[..., ::2]):
        exact = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
        own = (layer(x) - exact).abs().max()
        with onednn_linears(layer):
            y = layer(x)
        assert y.shape == exact.shape
        assert (y - exact).abs().max() < 3 * own + 1e-6


def test_only_plain_fp32_layers_change_and_only_in_the_block(model: Any) -> None:
    model.extra = nn.ModuleList([Other(2, 2), nn.Linear(2, 2).bfloat16(), nn.Linear(2, 2, device="meta")])
    own = nn.Linear(2, 2)
    own.forward = forward = lambda x: x  # type: ignore[method-assign, assignment]
    model.extra.append(own)
    linears = [n for n, m in model.named_modules() if type(m) is nn.Linear and not n.startswith("extra")]
    inside: list[str] = []

    def fail() -> None:
        with onednn_linears(model):
            inside.extend(replaced(model))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert sorted(inside) == sorted([*linears, "extra.3"])
    assert replaced(model) == ["extra.3"]
    assert own.forward is forward


@torch.no_grad()
def test_hooks_run_and_weights_are_read_at_every_call(model: Any) -> None:
    """An adapter's change, and a weight written inside the block, both show."""
    ids = torch.arange(2, 30)[None]
    base = model(ids).logits
    with ad.attach(model, ad.LoRAConfig(r=4), seed=0) as handle:
        for p in handle.trainable().values():
            p.add_(0.3)
        adapted = model(ids).logits
        with onednn_linears(model):
            assert torch.allclose(model(ids).logits, adapted, rtol=1e-4, atol=1e-4)
            model.model.layers[0].mlp.up_proj.weight.mul_(2)
            inside = model(ids).logits
        assert torch.allclose(inside, model(ids).logits, rtol=1e-4, atol=1e-4)
    assert (adapted - base).abs().max() > 0.1
    assert (inside - adapted).abs().max() > 0.1


def test_decoding_uses_it_and_leaves_nothing_behind(model: Any, monkeypatch: Any) -> None:
    seen = []
    monkeypatch.setattr(model, "forward", _noting(model.forward, lambda: seen.append(replaced(model))))
    kw: Any = {"eos": {0}, "pad": 1, "batch_size": 2, "max_new_tokens": 3, "complete": lambda tokens: False}
    generate(model, [[2, 3], [4]], **kw)
    names = [n for n, m in model.named_modules() if type(m) is nn.Linear]
    assert seen
    assert all(set(names) <= set(found) for found in seen)
    assert replaced(model) == [""]


def _noting(forward: Any, note: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        note()
        return forward(*args, **kwargs)

    return call
