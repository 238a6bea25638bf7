"""Widths: r-dimensional arithmetic under autocast, and bases and files when the model is cast with an adapter on it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import adapters as ad
from adapters._contract import Calibration, Variant, wide
from tests.toy import HAS_SITES, IDS, SETTINGS, attached, generic, record_of, small, tokens, toy

each_setting = pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=IDS)
each_variant = pytest.mark.parametrize("name", HAS_SITES)
CALIBRATED = [n for n in HAS_SITES if ad.VARIANTS[n].calibration(small(n)) is Calibration.required]
BF16, FP16, FP32, FP64 = torch.bfloat16, torch.float16, torch.float32, torch.float64


@torch.no_grad()
def logits(model):
    return model(tokens())


def frozen_logits(model):
    with ad.frozen(model):
        logits(model)
        return logits(model)


def error(got, expected):
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def gradients(model, handle):
    """The loss's gradient in all trainable tensors, as one vector."""
    model.zero_grad()
    F.cross_entropy(model(tokens()).flatten(0, 1).float(), tokens().flatten()).backward()
    return torch.cat([p.grad.double().flatten() for p in handle.trainable().values()])


@torch.no_grad()
def moderate(handle):
    """A random point with an s·BA at which the toy model is not chaotic."""
    generic(handle)
    for n, p in handle.trainable().items():
        p.mul_(0.03 if n.endswith("lora_B") else 1)


# -- autocast ----------------------------------------------------------------------------------------------------------
@each_setting
def test_autocast_costs_what_it_costs_the_base(name, settings, monkeypatch):
    """bf16: identity at the start; logits and gradients within a few roundings of fp32's, frozen too; not inside."""
    model = toy()
    base = logits(model)
    with torch.autocast("cpu", BF16):
        low_base = logits(model)
    handle = attached(model, name, **settings)
    with torch.autocast("cpu", BF16):
        if handle.variant.identity_atol == 0:
            assert torch.equal(logits(model), low_base)
            assert torch.equal(frozen_logits(model), low_base)
    moderate(handle)
    plain, gradient = logits(model), gradients(model, handle)
    method = "forward_input" if handle.variant.changes_input() else "forward"
    inner = getattr(handle.variant, method)

    def watched(site, x, *y):
        assert not torch.is_autocast_enabled("cpu")
        assert x.dtype == BF16 or site.changes_input()
        return inner(site, x, *y)

    with monkeypatch.context() as patch, torch.autocast("cpu", BF16):
        patch.setattr(handle.variant, method, watched)
        low, low_gradient = logits(model), gradients(model, handle)
        kept = frozen_logits(model)
    assert low.dtype == BF16
    roundings = error(low_base, base)
    assert 0.003 < roundings < 0.01
    assert error(low, plain) < 2 * roundings
    assert error(kept, plain) < 2 * roundings
    assert error(low_gradient, gradient) < 0.03
    assert torch.equal(logits(model), plain)
    if factors := next(iter(handle.sites.values())).factors():
        assert factors[0].dtype == FP32


@each_variant
def test_files_do_not_depend_on_autocast(name, tmp_path):
    """Attached, saved and loaded under autocast: the same bytes, the same function."""
    for path, enabled in ((tmp_path / "a", False), (tmp_path / "b", True)):
        model, other = toy(), toy()
        with torch.autocast("cpu", BF16, enabled=enabled and name not in CALIBRATED):  # which run the model
            generic(attached(model, name))
        with torch.autocast("cpu", BF16, enabled=enabled):
            ad.save(model, path)
            ad.load(other, path)
        assert torch.equal(logits(other), logits(model))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# -- casts of the model ------------------------------------------------------------------------------------------------
CASTS = {"bf16": [BF16], "fp16": [FP16], "fp64": [FP64], "bf16 and back": [BF16, FP32], "fp64 and back": [FP64, FP32]}


def cast(model, how):
    for dtype in CASTS[how]:
        model.to(dtype)
    return model


@each_variant
@pytest.mark.parametrize("how", list(CASTS))
def test_a_cast_model_is_saved_so_that_it_loads(name, how, tmp_path):
    """Bases keep their dtypes and bits; the file loads on the same model, on one cast likewise, and on one not cast."""
    path, again = tmp_path / "a", tmp_path / "b"
    model = toy()
    handle = attached(model, name)
    generic(handle)
    before = logits(model)
    bases = {n: b.clone() for n, b in model.named_buffers()}
    cast(model, how)
    for n, b in model.named_buffers():
        assert b.dtype == bases[n].dtype, n
        assert torch.equal(b, bases[n]), n
    after, kept = logits(model), frozen_logits(model)
    tolerance = {BF16: 0.06, FP16: 0.006, FP64: 2e-6}[CASTS[how][0]]
    assert error(after, before) < tolerance
    ad.save(model, path)
    assert record_of(path)["whole_basis"] or handle.variant.basis is Variant.basis
    ad.detach(model)

    for other in (model, cast(toy(), how)):
        loaded = ad.load(other, path)
        assert torch.equal(logits(other), after)
        assert torch.equal(frozen_logits(other), kept)
        ad.save(other, again)
        assert again.read_bytes() == path.read_bytes()
        ad.detach(other)
    uncast = toy()
    loaded = ad.load(uncast, path)
    assert error(logits(uncast), before) < tolerance
    loaded.model.to(CASTS[how][0])
    ad.save(uncast, again)
    ad.detach(uncast)
    ad.load(uncast, again)


@each_variant
def test_training_in_a_wider_dtype(name):
    """After model.double() gradients are fp32's to rounding: the bases stay fp32, what is computed with them widens."""
    model = toy()
    handle = attached(model, name)
    moderate(handle)
    assert error(gradients(model, handle), gradients(model.double(), handle)) < 1e-5
    assert wide(BF16, FP16) == FP32
