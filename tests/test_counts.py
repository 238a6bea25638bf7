"""Trainable parameters on Qwen3-0.6B's shapes, on the meta device: the published numbers, exactly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import adapters as ad

SHAPES = {  # (o, i) of one layer's linear modules
    "self_attn.q_proj": (2048, 1024),
    "self_attn.k_proj": (1024, 1024),
    "self_attn.v_proj": (1024, 1024),
    "self_attn.o_proj": (1024, 2048),
    "mlp.gate_proj": (3072, 1024),
    "mlp.up_proj": (3072, 1024),
    "mlp.down_proj": (1024, 3072),
}
PUBLISHED = {
    "lora": 4_587_520,
    "pissa": 4_587_520,
    "eva": 4_587_520,
    "dora": 4_673_536,
    "delora": 4_587_576,
    "hra": 1_835_008,
    "ia3": 57_344,
    "ia3_ff": 86_016,
    "antipasto": 14_336,
    "antipasto_corda": 14_336,
    "antipasto_asvd": 14_336,
    "antipasto_ablate": 14_392,
    "antipasto_arrow": 17_472,
    "antipasto_dplr": 243_712,
    "antipasto_rot": 35_840,
    "lora_xs": 57_344,
    "road": 86_016,
    "none": 0,
    "full": 440_401_920,  # the linear layers of this model
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
def test_defaults_give_the_published_counts(qwen, name):
    """A variant that is not in the list has no published number to meet: add it here."""
    assert ad.parameter_count(qwen, ad.VARIANTS[name].Config()) == PUBLISHED[name]


@pytest.mark.parametrize(("kind", "count"), [(1, 86_016), (2, 172_032), (4, 344_064)])
def test_road_kinds(qwen, kind, count):
    assert ad.parameter_count(qwen, ad.RoadConfig(kind=kind)) == count
