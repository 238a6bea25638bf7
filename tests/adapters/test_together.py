"""Layers that compute together give what they give alone, however the model is run and differentiated."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.func import functional_call, grad
from torch.utils.checkpoint import checkpoint

import adapters as ad
from adapters import _together
from adapters._site import MARK
from tests.toy import IDS, SETTINGS, attached, generic, tokens, toy

SOURCES = {n: inspect.getsource(sys.modules[v.__module__]) for n, v in ad.VARIANTS.items()}
CASES = [(s, i) for s, i in zip(SETTINGS, IDS, strict=True) if "self.together(" in SOURCES[s[0]]]
each_setting = pytest.mark.parametrize(("name", "settings"), [s for s, _ in CASES], ids=[i for _, i in CASES])


def setup(name, settings):
    model = toy(torch.float64)
    handle = attached(model, name, dtype="float64", **settings)
    generic(handle)
    return model, handle, tokens()


def loss_of(logits, ids):
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten())


def blocks(model, ids, run=lambda layer, h: layer(h)):
    """The model's forward, block by block: called by itself, every layer computes alone."""
    h = model.embedding(ids)
    h.requires_grad_()  # reentrant checkpointing needs an input that requires grad
    for layer in model.layers:
        h = run(layer, h)
    return model.lm_head(h)


class ByBlocks(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return blocks(self.model, ids)


@contextlib.contextmanager
def running(model, run):
    """A model that calls its blocks by `run(layer, h)`."""
    model.forward = lambda ids: blocks(model, ids, run)
    try:
        yield
    finally:
        del model.forward


def gradients(handle):
    found = {n: p.grad for n, p in handle.trainable().items()}
    handle.model.zero_grad()
    return found


def assert_close(got, expected):
    assert list(got) == list(expected)
    for n, wanted in expected.items():
        assert (got[n] is None) == (wanted is None), n
        if wanted is not None:
            error, size = (float(t.detach().abs().max()) for t in (got[n] - wanted, wanted))
            assert error <= 1e-11 * max(1.0, size), n


@pytest.fixture
def computed(monkeypatch):
    """How many sites each joint computation was for, in order."""
    counts, original = [], _together.together

    def counting(compute, columns):
        counts.append(len(columns[0]))
        return original(compute, columns)

    monkeypatch.setattr(_together, "together", counting)
    return counts


@each_setting
def test_gradients_are_those_of_layers_alone(name, settings, computed):
    """Two passes with changed tensors between them; two before a backward, also of another strength; a graph used
    twice; each layer called twice.
    """
    model, handle, ids = setup(name, settings)

    def two_steps(forward):
        for part in ids.chunk(2):
            loss_of(forward(part), part).backward()
            with torch.no_grad():
                for p in handle.trainable().values():
                    p.mul_(0.9).add_(0.01)

    def two_parts(forward):
        (loss_of(forward(ids[:2]), ids[:2]) + 0.5 * loss_of(forward(ids[2:]), ids[2:])).backward()

    def retained(forward):
        loss = loss_of(forward(ids), ids)
        loss.backward(retain_graph=True)
        loss.backward()

    def other_strength(forward):
        early = loss_of(forward(ids), ids)
        if hasattr(handle.cfg, "coeff"):
            handle.coeff = -0.5
        (early - 0.3 * loss_of(forward(ids), ids)).backward()

    for way in (two_steps, two_parts, retained, other_strength):
        start = {n: p.detach().clone() for n, p in handle.trainable().items()}
        coeff = getattr(handle.cfg, "coeff", None)
        found = []
        for forward in (lambda ids: blocks(model, ids), model):
            with torch.no_grad():
                for n, p in handle.trainable().items():
                    p.copy_(start[n])
            if coeff is not None:
                handle.coeff = coeff
            before = len(computed)
            way(forward)
            assert (len(computed) > before) == (forward is model)
            found.append(gradients(handle))
        assert_close(found[1], found[0])
    assert set(computed) == {len(model.layers)}  # q and v differ in shape; each is computed for both blocks

    def twice(layer, h):
        return layer(layer(h))

    loss_of(blocks(model, ids, twice), ids).backward()
    expected = gradients(handle)
    with running(model, twice):
        loss_of(model(ids), ids).backward()
    assert_close(gradients(handle), expected)


@each_setting
def test_checkpointed_blocks_compute_alone(name, settings, computed):
    """Both ways of checkpointing all blocks, and of one block beside another that is not checkpointed."""
    model, handle, ids = setup(name, settings)
    loss_of(blocks(model, ids), ids).backward()
    expected = gradients(handle)
    for reentrant in (True, False):
        for chosen in (model.layers, model.layers[:1], model.layers[1:]):

            def run(layer, h, chosen=chosen, reentrant=reentrant):
                return checkpoint(layer, h, use_reentrant=reentrant) if layer in chosen else layer(h)

            computed.clear()
            with running(model, run):
                loss_of(model(ids), ids).backward()
            assert_close(gradients(handle), expected)
            assert bool(computed) == (len(chosen) < 2)


@each_setting
def test_layers_that_a_pass_leaves_out_get_no_gradient(name, settings):
    """None, as every optimizer expects, instead of zeros; in the next pass they take part again."""
    model, handle, ids = setup(name, settings)
    for skipped in (model.layers[1], None, model.layers[0]):

        def run(layer, h, skipped=skipped):
            return h if layer is skipped else layer(h)

        loss_of(blocks(model, ids, run), ids).backward()
        expected = gradients(handle)
        assert (None in expected.values()) == (skipped is not None)
        with running(model, run):
            loss_of(model(ids), ids).backward()
        assert_close(gradients(handle), expected)


@each_setting
def test_derivatives_of_higher_order_and_transforms(name, settings):
    """A Hessian-vector product; functional_call with other tensors; torch.func.grad; a forward-mode derivative."""
    model, handle, ids = setup(name, settings)
    own = handle.trainable()
    direction = {n: torch.full_like(p, 0.1) for n, p in own.items()}

    def product(forward):
        slopes = torch.autograd.grad(loss_of(forward(ids), ids), list(own.values()), create_graph=True)
        total = sum((s * d).sum() for s, d in zip(slopes, direction.values(), strict=True))
        return dict(zip(own, torch.autograd.grad(total, list(own.values())), strict=True))

    assert_close(product(model), product(lambda ids: blocks(model, ids)))

    other = {n: (0.9 * p.detach() + 0.01).requires_grad_() for n, p in own.items()}
    loss_of(functional_call(model, other, (ids,)), ids).backward()
    swapped = {n: p.grad for n, p in other.items()}
    transformed = grad(lambda t: loss_of(functional_call(model, t, (ids,)), ids))(other)
    with torch.no_grad():
        for n, p in own.items():
            p.copy_(other[n])
    loss = loss_of(blocks(model, ids), ids)
    loss.backward()
    expected = gradients(handle)
    assert_close(swapped, expected)
    assert_close(transformed, expected)

    def slope(module, prefix):
        with forward_ad.dual_level():
            duals = {prefix + n: forward_ad.make_dual(p.detach(), direction[n]) for n, p in own.items()}
            return {"slope": forward_ad.unpack_dual(loss_of(functional_call(module, duals, (ids,)), ids)).tangent}

    assert_close(slope(model, ""), slope(ByBlocks(model), "model."))


@each_setting
def test_sharded_layers_are_read_only_when_gathered(name, settings, computed):
    """Block by block, as where parameters are sharded: before its turn, a layer's weight is empty, or all it has."""
    model, handle, ids = setup(name, settings)
    loss_of(blocks(model, ids), ids).backward()
    expected = gradients(handle)
    weights = [layer.weight for layer in model.layers.modules() if isinstance(layer, torch.nn.Linear)]
    for sharded in (weights, list(model.layers.parameters())):
        whole = {p: p.data for p in sharded}

        def gathering(layer, h, whole=whole):
            for p in layer.parameters():
                p.data = whole.get(p, p.data)
            return layer(h)

        for p in whole:
            p.data = p.data.new_empty(0)
        computed.clear()
        with running(model, gathering):
            loss_of(model(ids), ids).backward()
        assert_close(gradients(handle), expected)
        assert computed[0] == 1


@each_setting
def test_layers_that_differ_or_change_during_a_pass(name, settings):
    """Another scale or group size on the second block, and a write to its tensors after the first one has computed."""
    model, handle, ids = setup(name, settings)
    second = [getattr(layer, MARK) for layer in (model.layers[1].q_proj, model.layers[1].v_proj)]
    for site in second:
        changes = {"alpha": 3.0, "lambda0": 2.0, "group_size": 8}
        site.cfg = dataclasses.replace(site.cfg, **{k: v for k, v in changes.items() if hasattr(site.cfg, k)})
    start = {n: p.detach().clone() for n, p in handle.trainable().items()}

    @torch.no_grad()
    def write():
        for p in (p for site in second for p in site.parameters().values()):
            p.mul_(0.9).add_(0.01)

    for writes in (False, True):

        def run(layer, h, writes=writes):
            if writes and layer is model.layers[1]:
                write()
            return layer(h)

        found = []
        for together in (False, True):
            with torch.no_grad():
                for n, p in handle.trainable().items():
                    p.copy_(start[n])
            with running(model, run):
                loss = loss_of(model(ids) if together else model.forward(ids), ids)
            loss.backward()
            found.append(gradients(handle) | {"loss": loss})
        assert_close(found[1], found[0])


def test_nothing_outlives_a_forward_pass():
    """After a pass, also one that raised, layers compute alone, and a copy of a layer carries no other layer along."""
    model, handle, ids = setup("hra", {})
    seen = []

    def fail(layer, h):
        h = layer(h)
        seen.append(all(s.forward_pass is not None for s in handle.sites.values()))
        seen.append(getattr(copy.deepcopy(layer.q_proj), MARK).forward_pass is None)
        raise RuntimeError("as planned")

    with running(model, fail), pytest.raises(RuntimeError, match="as planned"):
        model(ids)
    assert seen == [True, True]
    assert all(s.forward_pass is None for s in handle.sites.values())
    model(ids)
    assert all(s.forward_pass is None for s in handle.sites.values())
