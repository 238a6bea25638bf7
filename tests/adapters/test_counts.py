"""Trainable parameters: exactly the published numbers on Qwen3-0.6B's shapes, and what attach makes trainable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import adapters as ad
from tests.oracles import ORACLES, oracle
from tests.toy import HAS_SITES, attached, small, toy

SHAPES = {  # (o, i) of one layer's linear modules
    "self_attn.q_proj": (2048, 1024),
    "self_attn.k_proj": (1024, 1024),
    "self_attn.v_proj": (1024, 1024),
    "self_attn.o_proj": (1024, 2048),
    "mlp.gate_proj": (3072, 1024),
    "mlp.up_proj": (3072, 1024),
    "mlp.down_proj": (1024, 3072),
}


@pytest.fixture(scope="module")
def qwen():
    """Qwen3-0.6B's 28 transformer layers, their linear modules only, without memory."""
    model = nn.Module()
    model.layers = nn.ModuleList()
    with torch.device("meta"):
        for _ in range(28):
            layer = nn.Module()
            layer.self_attn, layer.mlp = nn.Module(), nn.Module()
            for name, (o, i) in SHAPES.items():
                parent, child = name.split(".")
                layer.get_submodule(parent).add_module(child, nn.Linear(i, o, bias=False))
            model.layers.append(layer)
    return nn.ModuleDict({"model": model})


@pytest.mark.parametrize("name", list(ad.VARIANTS))
def test_defaults_give_the_published_count(qwen, name):
    count, published = ad.parameter_count(qwen, ad.VARIANTS[name].Config()), oracle(name, "COUNT")
    if published is None:
        pytest.skip(f"no published number: tests/oracles/{name}.py may hold COUNT, which is {count:_} today")
    assert count == published


@pytest.mark.parametrize("name", list(ad.VARIANTS))
def test_the_count_is_what_attach_trains(name):
    """Counted without memory, on the meta device, and by attaching."""
    model = toy()
    count = ad.parameter_count(toy().to("meta"), small(name))
    assert sum(p.numel() for p in attached(model, name).trainable().values()) == count


@pytest.mark.parametrize(("kind", "count"), [(1, 86_016), (2, 172_032), (4, 344_064)])
def test_road_kinds(qwen, kind, count):
    assert ad.parameter_count(qwen, ad.RoadConfig(kind=kind)) == count


def test_every_variant_of_the_published_table_has_an_oracle():
    """Where others read a number, its formula and its parameter count are checked. A new variant may do without."""
    records = Path(ad.__file__).parents[1].glob("runs/published/*/result.json")
    published = {json.loads(p.read_text())["variant"] for p in records}
    assert published
    assert [n for n in sorted(published) if oracle(n, "COUNT") is None] == []
    assert [n for n in sorted(published & set(HAS_SITES)) if oracle(n, "dense") is None] == []
    assert set(ORACLES) <= set(ad.VARIANTS), "a file of tests/oracles/ that bears no variant's name is never read"
