"""PEFT as a second implementation: same parameter values, same outputs and gradients to fp32 rounding."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import adapters as ad
from tests.oracles import ORACLES, oracle
from tests.toy import attached, generic, tokens, toy

peft = pytest.importorskip("peft")
R, ALPHA = 8, 12.0
QV, KV = ["q_proj", "v_proj"], ["k_proj", "v_proj"]
LORA = {"r": R, "lora_alpha": ALPHA, "target_modules": QV}


def one(linear):
    return linear["default"].weight if isinstance(linear, nn.ModuleDict) else linear["default"]


# Each entry: our variant and settings, PEFT's config, and for one layer of each the pairs
# (PEFT's parameter, its value from ours, our gradient from its gradient) by our tensor's name.
def factors_of(site, layer):
    return {
        "lora_A": (one(layer.lora_A), lambda t: t, lambda g: g),
        "lora_B": (one(layer.lora_B), lambda t: t, lambda g: g),
    }


def dora_of(site, layer):
    m0 = site.layer.weight.detach().norm(dim=1)
    magnitude = layer.lora_magnitude_vector["default"].weight
    return factors_of(site, layer) | {"lora_delta": (magnitude, lambda t: m0 + t, lambda g: g)}


def pissa_of(site, layer):
    A0, B0 = site.basis_A, site.basis_B
    return {
        "lora_dA": (one(layer.lora_A), lambda t: A0 + t, lambda g: g),
        "lora_dB": (one(layer.lora_B), lambda t: B0 + t, lambda g: g),
    }


def delora_of(site, layer):
    names = {"lora_A": "delora_A", "lora_B": "delora_B", "lora_lambda": "delora_lambda"}
    return {ours: (one(getattr(layer, theirs)), lambda t: t, lambda g: g) for ours, theirs in names.items()}


def gate_of(site, layer):
    gate = one(layer.ia3_l)
    return {"lora_delta": (gate, lambda t: (1 + t).view_as(gate), lambda g: g.flatten())}


def hra_of(site, layer):
    return {"lora_U": (one(layer.hra_u), lambda t: t.T, lambda g: g.T)}


def road_of(site, layer):
    return {
        "lora_theta": (one(layer.road_theta), lambda t: t, lambda g: g),
        "lora_scale": (one(layer.road_alpha), lambda t: 1 + t, lambda g: g),
    }


def road(kind):
    theirs = peft.RoadConfig(variant=f"road_{kind}", group_size=4, target_modules=QV)
    return "road", {"kind": kind}, theirs, road_of


FEED_FORWARD = {"target_modules": ["down_proj"], "feedforward_modules": ["down_proj"]}
KINDS = {
    "lora": ("lora", {"alpha": ALPHA}, peft.LoraConfig(**LORA), factors_of),
    "rslora": ("lora", {"alpha": ALPHA, "scaling": "rslora"}, peft.LoraConfig(**LORA, use_rslora=True), factors_of),
    "dora": ("dora", {"alpha": ALPHA}, peft.LoraConfig(**LORA, use_dora=True), dora_of),
    "pissa": ("pissa", {"alpha": ALPHA}, peft.LoraConfig(**LORA, init_lora_weights="pissa"), pissa_of),
    "delora": ("delora", {}, peft.DeloraConfig(r=R, target_modules=QV), delora_of),
    "ia3": ("ia3", {}, peft.IA3Config(target_modules=KV, feedforward_modules=[]), gate_of),
    "ia3_ff": ("ia3_ff", {}, peft.IA3Config(**FEED_FORWARD), gate_of),
    "hra": ("hra", {}, peft.HRAConfig(r=R, target_modules=QV), hra_of),
} | {f"road_{kind}": road(kind) for kind in (1, 2, 4)}
for variant, module in ORACLES.items():
    for label, (settings, config, fields) in oracle(variant, "TWINS", {}).items():
        KINDS[label] = variant, settings, getattr(peft, config)(**{"target_modules": QV} | fields), module.pairs


def error(got, expected):
    got, expected = got.detach(), expected.detach()
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", list(KINDS))
def test_same_values_same_outputs_same_gradients(kind):
    name, settings, config, pairs_of = KINDS[kind]
    ours, ids = toy(keyword=False), tokens()
    theirs = peft.get_peft_model(toy(keyword=False), copy.deepcopy(config))
    handle = attached(ours, name, **settings)
    base = toy(keyword=False)(ids)
    # Before any change, PEFT's initialization (its SVD, its norms) must be the identity, as ours is.
    assert error(theirs(ids), base) < 2e-6
    generic(handle)
    pairs = {}
    for at, site in handle.sites.items():
        pairs[at] = pairs_of(site, theirs.get_submodule(f"base_model.model.{at}"))
        assert set(pairs[at]) == set(site.parameters())
        for key, (parameter, value, _) in pairs[at].items():
            with torch.no_grad():
                parameter.copy_(value(site.parameters()[key]))

    losses = []
    for model in (ours, theirs):
        logits = model(ids)
        losses.append((logits, F.cross_entropy(logits.flatten(0, 1), ids.flatten())))
        losses[-1][1].backward()
    assert error(losses[0][0], losses[1][0]) < 5e-6
    assert error(losses[0][0], base) > 0.01  # the adapter changes the output
    for at, site in handle.sites.items():
        for key, (parameter, _, gradient) in pairs[at].items():
            assert parameter.requires_grad, (at, key)
            assert error(site.parameters()[key].grad, gradient(parameter.grad)) < 2e-5, (at, key)


@pytest.mark.parametrize("kind", list(KINDS))
def test_thirty_adamw_steps_are_pefts(kind):
    """From the same start, in fp64: every parameter moves as far as PEFT's, so one learning rate means one thing.

    Adam's steps do not depend on a gradient's scale: a parameter stored in other units would move by another amount.
    Without weight decay, which pulls to identity here and to zero there.
    """
    name, settings, config, pairs_of = KINDS[kind]
    ours, ids = toy(torch.float64, keyword=False), tokens()
    single = kind == "pissa"  # which PEFT begins in fp32 only
    theirs = toy(torch.float32 if single else torch.float64, keyword=False)
    theirs = peft.get_peft_model(theirs, copy.deepcopy(config)).double()
    handle = attached(ours, name, dtype="float64", **settings)
    tolerance = 1e-4 if single else 1e-6
    pairs = {}
    for at, site in handle.sites.items():
        pairs[at] = pairs_of(site, theirs.get_submodule(f"base_model.model.{at}"))
        for key, (parameter, value, _) in pairs[at].items():
            with torch.no_grad():
                assert parameter.dtype == torch.float64
                parameter.copy_(value(site.parameters()[key]))
    start = ours(ids).detach()
    trained = [p for p in theirs.parameters() if p.requires_grad]
    for model, groups in ((ours, ad.parameter_groups(ours, lr=1e-2)), (theirs, trained)):
        optimizer = torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.0)
        for _ in range(30):
            optimizer.zero_grad()
            F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
            optimizer.step()
    assert error(theirs(ids), start) > 0.05
    assert error(ours(ids), theirs(ids)) < tolerance
    for at, site in handle.sites.items():
        for key, (parameter, value, _) in pairs[at].items():
            assert error(value(site.parameters()[key]), parameter) < tolerance, (at, key)


def test_initial_scales_are_pefts():
    """Kaiming-uniform A, B = 0 and λ = 15 have PEFT's ranges; HRA's U is drawn over i, as our docstring says."""
    for name, config, pick in (
        ("lora", KINDS["lora"][2], lambda layer: one(layer.lora_A)),
        ("delora", KINDS["delora"][2], lambda layer: one(layer.delora_A)),
    ):
        theirs = peft.get_peft_model(toy(keyword=False), copy.deepcopy(config))
        handle = attached(toy(keyword=False), name)
        for at, site in handle.sites.items():
            layer = theirs.get_submodule(f"base_model.model.{at}")
            bound = site.i**-0.5
            for A in (site.lora_A, pick(layer)):
                assert 0.9 * bound < A.abs().max() <= bound
            assert not site.lora_B.any()
    hra = next(iter(attached(toy(keyword=False), "hra").sites.values()))
    assert 0.9 < hra.lora_U.abs().max() * hra.i**0.5 <= 1


def test_a_zero_row_is_dead_here_and_nan_in_peft():
    """The deviation that dora's docstring states: if PEFT starts to handle zero rows, compare with it instead."""
    broken = toy(keyword=False)
    with torch.no_grad():
        broken.layers[0].q_proj.weight[1] = 0
    ids = tokens()
    theirs = peft.get_peft_model(copy.deepcopy(broken), copy.deepcopy(KINDS["dora"][2]))
    assert theirs(ids).isnan().any()
    base = broken(ids)
    with ad.attach(broken, ad.DoRAConfig(r=R)):
        assert torch.equal(broken(ids), base)
