"""What holds for any variant, without knowing its formula: forward, gradients and factors agree with one another."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.oracles import oracle
from tests.toy import IDS, SETTINGS, attached, generic, toy

each_setting = pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=IDS)
H = 1e-6  # step of the differences: rounding leaves 1e-10 of the values, curvature 1e-12


def layers(name, settings):
    """(name, layer, its site, x) of every adapted layer at a generic point, in fp64."""
    handle = attached(toy(torch.float64), name, dtype="float64", **settings)
    generic(handle)
    generator = torch.Generator().manual_seed(3)
    for at, site in handle.sites.items():
        yield at, site.layer, site, torch.randn(3, 4, site.i, generator=generator, dtype=torch.float64)


def close(got, expected, tolerance):
    return float((got - expected).abs().max()) <= tolerance * max(1.0, float(expected.abs().max()))


@each_setting
def test_gradients_are_finite_differences(name, settings):
    """Along a random direction of x and of each trainable tensor: the gradient is the central difference."""
    generator = torch.Generator().manual_seed(4)
    for at, layer, site, x in layers(name, settings):
        probe = torch.randn(3, 4, site.o, generator=generator, dtype=torch.float64)
        x.requires_grad_()
        variables = {"x": x} | site.parameters()
        gradients = torch.autograd.grad((layer(x) * probe).sum(), list(variables.values()))
        for (key, v), gradient in zip(variables.items(), gradients, strict=True):
            direction = torch.randn(v.shape, generator=generator, dtype=torch.float64)
            with torch.no_grad():
                ends = []
                for step in (H, -H):
                    v.add_(direction, alpha=step)
                    site.drop_cache()
                    ends.append((layer(x) * probe).sum())
                    v.add_(direction, alpha=-step)
            slope, difference = (gradient * direction).sum(), (ends[0] - ends[1]) / (2 * H)
            if key in oracle(name, "DETACHED", set()):
                assert not close(slope, difference, 1e-6), f"{at}.{key} is detached from nothing"
                continue
            remedy = f"If a quantity is a constant on purpose, name {key} in DETACHED of tests/oracles/{name}.py."
            assert close(slope, difference, 1e-6), f"{at}.{key}: slope {slope}, difference {difference}. {remedy}"


@each_setting
def test_a_layer_agrees_with_itself(name, settings):
    """A row alone, in any batch shape, by keyword, with or without gradients is the same row; Δy = P(Qx)."""
    for at, layer, site, x in layers(name, settings):
        y = layer(x).detach()
        assert y.shape == (3, 4, site.o)
        with torch.no_grad():
            again = {
                "without gradients": (layer(x), y),
                "from the cache": (layer(x), y),
                "by keyword": (layer(input=x), y),
                "in another batch shape": (layer(x.flatten(0, 1)), y.flatten(0, 1)),
                "a row alone": (layer(x[1, 2]), y[1, 2]),
            }
            assert layer(x[:0]).shape == (0, 4, site.o)
            if (factors := site.factors()) is not None:
                P, Q = factors
                again["from factors()"] = (F.linear(x, layer.weight, layer.bias) + x @ Q.T @ P.T, y)
        differ = [way for way, (got, expected) in again.items() if not close(got, expected, 1e-12)]
        assert not differ, at
