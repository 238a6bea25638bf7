"""A two-block toy language model with the layer names of a transformer, and small configs for every variant."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

import adapters as ad
from adapters._contract import Calibration
from adapters._registry import variant_has_sites
from tests.oracles import oracle

VOCABULARY, HIDDEN, WIDE = 13, 16, 24
HAS_SITES = [n for n, variant in ad.VARIANTS.items() if variant_has_sites(variant)]
# Every variant's defaults, and the settings that its oracle's file lists.
SETTINGS: list[tuple[str, dict[str, Any]]] = [(n, {}) for n in HAS_SITES]
SETTINGS += [(n, kw) for n in HAS_SITES for kw in oracle(n, "SETTINGS", [])]
IDS = ["-".join([n, *(f"{k}={v}" for k, v in kw.items())]) for n, kw in SETTINGS]


class Block(nn.Module):
    def __init__(self, keyword: bool) -> None:
        super().__init__()
        self.keyword = keyword
        self.q_proj = nn.Linear(HIDDEN, WIDE)
        self.k_proj = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.v_proj = nn.Linear(HIDDEN, HIDDEN)
        self.down_proj = nn.Linear(WIDE, HIDDEN, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.down_proj(torch.tanh(self.q_proj(h)))
        v = self.v_proj(input=h) if self.keyword else self.v_proj(h)  # some models call by keyword; PEFT cannot
        return h + torch.tanh(self.k_proj(h)) * v


class Toy(nn.Module):
    """Token ids (n, t) → logits (n, t, vocabulary)."""

    def __init__(self, keyword: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = nn.ModuleList(Block(keyword) for _ in range(2))
        self.lm_head = nn.Linear(HIDDEN, VOCABULARY, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embedding(ids)
        for layer in self.layers:
            h = layer(h)
        return self.lm_head(h)


def toy(dtype: torch.dtype = torch.float32, seed: int = 0, keyword: bool = True) -> Toy:
    """Weights with singular values spread over a decade, so that every singular vector is well determined."""
    generator = torch.Generator().manual_seed(seed)
    model = Toy(keyword)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
            if p.dim() == 2:
                U, _, Vh = torch.linalg.svd(p, full_matrices=False)
                p.copy_(U * torch.linspace(1.5, 0.15, len(Vh)) @ Vh)
    return model.to(dtype)


def tokens(n: int = 4, t: int = 6, seed: int = 1) -> Tensor:
    return torch.randint(VOCABULARY, (n, t), generator=torch.Generator().manual_seed(seed))


def rank_multiple(name: str) -> int | None:
    """What the variant's r must be a multiple of; None for variants without r."""
    rank = {f.name: f for f in fields(ad.VARIANTS[name].Config)}.get("r")
    return rank and rank.metadata.get("multiple", 1)


def small(name: str, **settings: Any) -> Any:
    """The variant's config at toy size, on every matched layer of its default targets."""
    multiple = rank_multiple(name)
    rank = {"r": math.ceil(8 / multiple) * multiple} if multiple else {}
    return ad.VARIANTS[name].Config(**(rank | oracle(name, "SMALL", {}) | settings))


def record_of(path: Any) -> dict[str, Any]:
    """What a checkpoint says about itself: the one entry of the file's metadata."""
    with safe_open(path, framework="pt") as f:
        metadata = f.metadata()
    assert list(metadata) == ["adapters"]
    return json.loads(metadata["adapters"])


CALIBRATION = [tokens(8, 6, seed=s) for s in (7, 8)]


def attached(model: nn.Module, name: str, **settings: Any) -> ad.Attachment:
    """Attaches a small config; calibrated=True passes calibration data to variants that can do without."""
    optional = settings.pop("calibrated", False)
    cfg = small(name, **settings)
    read = ad.VARIANTS[name].calibration(cfg) is Calibration.required or optional
    return ad.attach(model, cfg, seed=0, calibration=CALIBRATION if read else None)


@torch.no_grad()
def generic(handle: ad.Attachment, seed: int = 2) -> None:
    """Moves every trainable tensor to a random point in general position."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in handle.trainable().items():
        if name.endswith("lora_alpha"):  # a rate in [0, 1]
            p.copy_(0.1 + 0.8 * torch.rand(p.shape, generator=generator))
        else:
            p.add_(0.3 * torch.randn(p.shape, generator=generator))


def moments(model: nn.Module) -> dict[str, Tensor]:
    """C = E[xxᵀ] of every linear layer's inputs over CALIBRATION, fp64, taken from the bare model."""
    seen: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Any:
        return lambda _, args, kwargs: seen.setdefault(name, []).append((args or (kwargs["input"],))[0].detach())

    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    hooks = [m.register_forward_pre_hook(keep(n), with_kwargs=True) for n, m in linear.items()]
    with torch.no_grad():
        for batch in CALIBRATION:
            model(batch)
    for hook in hooks:
        hook.remove()
    X = {n: torch.cat([x.flatten(0, -2) for x in xs]).double() for n, xs in seen.items()}
    return {n: x.T @ x / len(x) for n, x in X.items()}


class Reader(nn.Module):
    """Reads the weight of `second` in a helper, so that only running the model shows that it is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return by_weight(self.first(x), self.second)


def by_weight(x: Tensor, layer: nn.Linear) -> Tensor:
    return nn.functional.linear(x, layer.weight)


def trained(model: nn.Module, run: Any = None) -> None:
    """Two steps of plain SGD, through `run` if it is given."""
    optimizer = torch.optim.SGD(ad.parameter_groups(model, lr=0.1))
    run = model if run is None else run
    for _ in range(2):
        run(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
