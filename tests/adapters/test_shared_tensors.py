"""What layers share: trainable tensors that are tied, frozen ones that come from a seed. And LoKr's split of a size."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import adapters as ad
from adapters._format import tensors_sha256
from adapters.lokr import split
from adapters.vera import random_rows
from tests.adapters import test_layers
from tests.toy import attached, generic, record_of, tokens, toy


def logits(model):
    with torch.no_grad():
        return model(tokens())


def groups(handle):
    """For each layer the place of its v among the different ones."""
    seen = []
    for site in handle.sites.values():
        if not any(site.lora_v is v for v in seen):
            seen.append(site.lora_v)
    return [next(n for n, v in enumerate(seen) if site.lora_v is v) for site in handle.sites.values()]


@pytest.mark.parametrize(("tie", "expected"), [(1, [0, 1, 2, 3]), (2, [0, 0, 1, 1]), (3, [0, 0, 0, 1]), (9, [0] * 4)])
def test_tied_layers_are_one_tensor_everywhere(tie, expected, tmp_path):
    """Counted, grouped, trained and stored once; tied in a copy, after a cast, after loading; detached everywhere."""
    model, ids = toy(), tokens()
    base = logits(model)
    handle = attached(model, "tinylora", tie=tie, u=5)
    number = max(expected) + 1
    assert groups(handle) == expected
    assert len(handle.trainable()) == len({id(p) for p in handle.trainable().values()}) == number
    assert ad.parameter_count(toy(), handle.cfg) == 5 * number
    (group,) = ad.parameter_groups(model, lr=0.1)
    assert len(group["params"]) == number
    assert len({s.basis_P.sum().item() for s in handle.sites.values()}) == 4  # every layer has a P of its own

    optimizer = torch.optim.AdamW([group])
    model(ids).square().mean().backward()
    optimizer.step()
    expected_logits = logits(model)
    assert not torch.equal(expected_logits, base)
    twin = copy.deepcopy(model)
    generic(ad.attachment(twin))
    assert groups(ad.attachment(twin)) == expected
    assert torch.equal(logits(model), expected_logits)
    ad.save(model, tmp_path / "a")
    assert load_file(tmp_path / "a").keys() == handle.trainable().keys()
    ad.detach(model)
    assert torch.equal(logits(model), base)
    handle = ad.load(model, tmp_path / "a")
    assert groups(handle) == expected
    assert torch.equal(logits(model), expected_logits)
    model.to(torch.float64).to(torch.float32)
    assert groups(handle) == expected
    assert torch.equal(logits(model), expected_logits)


def test_a_file_with_a_tied_tensor_too_many_is_refused(tmp_path):
    """The record says which layers share; a second copy of what they share would be another adapter."""
    model = toy()
    handle = attached(model, "tinylora", tie=2)
    ad.save(model, tmp_path / "a")
    tensors, record = load_file(tmp_path / "a"), record_of(tmp_path / "a")
    extra = f"{list(handle.sites)[1]}.lora_v"
    tensors[extra] = next(iter(tensors.values())).clone()
    record["tensors_sha256"] = tensors_sha256(tensors)
    save_file(tensors, tmp_path / "b", metadata={"adapters": json.dumps(record)})
    with pytest.raises(ad.AdapterError, match=f"unknown tensor {extra}"):
        ad.load(toy(), tmp_path / "b")


def test_one_random_matrix_serves_all_layers_of_a_shape(tmp_path):
    """One buffer in memory, in a copy too; other shapes hold a corner; a file holds it on request, layer by layer."""
    model = toy()
    handle = attached(model, "vera")
    generic(handle)
    q0, v0, q1, v1 = handle.sites.values()
    assert q0.basis_A is v0.basis_A is q1.basis_A is v1.basis_A
    assert q0.basis_Bt is q1.basis_Bt
    assert v0.basis_Bt is v1.basis_Bt
    assert torch.equal(q0.basis_Bt[:, : v0.o], v0.basis_Bt)
    first, *others = (s.basis_A for s in ad.attachment(copy.deepcopy(model)).sites.values())
    assert first is not q0.basis_A
    assert all(A is first for A in others)
    expected = logits(model)
    for basis in (False, True):
        ad.save(model, tmp_path / "a", basis=basis)
        other = toy()
        ad.load(other, tmp_path / "a")
        assert torch.equal(logits(other), expected)
        assert sum("basis_" in name for name in load_file(tmp_path / "a")) == (8 if basis else 0)
    with pytest.raises(ad.AdapterError, match="VeRAConfig: seed is None"):
        attached(toy(), "vera", seed=None)
    with pytest.raises(ad.AdapterError, match="TinyLoRAConfig: seed out of range, got 65536"):
        attached(toy(), "tinylora", seed=65536)


def test_random_rows_are_the_same_everywhere():
    """Row j from the Mersenne Twister of seed 7 + 2j, as in NumPy; a corner of a larger matrix; uniform in ±bound."""
    large = random_rows(40, 300, 7, 2.0)
    for j in (0, 39):
        words = np.frombuffer(np.random.RandomState(7 + 2 * j).bytes(4 * 300), dtype="<u4")
        uniform = torch.tensor((words % (1 << 24)).astype(np.float32)) / (1 << 24)  # torch keeps the low 24 bits
        assert torch.equal(large[j], 4 * uniform - 2)
    assert torch.equal(random_rows(5, 33, 7, 2.0), large[:5, :33])
    assert not torch.equal(random_rows(5, 33, 8, 2.0), large[:5, :33])
    assert large.abs().max() <= 2
    assert abs(float(large.var()) - 4 / 3) < 0.05
    assert abs(float(large.mean())) < 0.05
    assert abs(float(torch.corrcoef(large).fill_diagonal_(0).abs().max())) < 0.25


@pytest.mark.parametrize("name", ["vera", "tinylora"])
def test_peft_computes_the_same_on_conv1d(name, tmp_path):
    test_layers.test_peft_computes_the_same_on_conv1d(name, tmp_path)


def test_lokr_splits_sizes_as_peft():
    lokr = pytest.importorskip("peft.tuners.lokr.layer")
    for size in range(1, 400):
        for factor in (None, 1, 2, 3, 4, 5, 8, 10, 16, 21, 64):
            theirs = lokr.factorization(size, -1 if factor is None else factor)
            assert split(size, factor) == theirs, (size, factor)
