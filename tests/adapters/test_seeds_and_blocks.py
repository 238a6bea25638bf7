"""Positions from a seed, shards and blocks that must fit a layer, and what stays in memory until the backward pass."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import adapters as ad
from adapters.shira import positions
from tests.adapters.test_export import QV, logits, peft, qwen, rewrite, trained_by_peft
from tests.oracles.shira import finalized
from tests.toy import HAS_SITES, attached, generic, small, tokens, toy


def refused(cfg, o, i, message):
    model = nn.ModuleDict({"q_proj": nn.Linear(i, o)})
    with pytest.raises(ad.AdapterError, match=message):
        ad.attach(model, cfg)
    assert not model["q_proj"]._forward_hooks


# -- memory ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", HAS_SITES)
def test_no_dense_matrix_waits_for_the_backward_pass(name):
    """Of tensors as large as a weight, autograd keeps only what the layers hold anyway: weights and bases.

    The small matrices of the two layers of a shape may be stacked; each counts for itself.
    """
    model, ids = toy(), tokens(3, 2)  # no activation has two rows, as a stack has
    attached(model, name)
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept = []

    def pack(t):
        size = t.numel() // 2 if t.dim() == 3 and len(t) == 2 else t.numel()
        if size >= 256 and t.untyped_storage().data_ptr() not in own:
            kept.append(tuple(t.shape))
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(ids).sum()
    assert kept == []


# -- SHiRA's positions -------------------------------------------------------------------------------------------------
def by_hand(seed, n, size):
    own = finalized(seed + 1)
    return sorted(sorted(range(size), key=lambda p: finalized(p ^ own))[:n])


def test_positions_are_part_of_the_format():
    """A file holds a seed instead of positions, so these may never change."""
    assert positions(0, 6, 64).tolist() == [8, 17, 21, 29, 55, 56]
    assert positions(2**32 - 2, 6, 64).tolist() == by_hand(2**32 - 2, 6, 64)
    assert positions(0, 64, 64).tolist() == list(range(64))


def test_positions_are_spread_evenly():
    """Rows and columns of a 512 × 256 layer hold a binomial's number of them; two seeds share as many as chance has."""
    o, i, n = 512, 256, 13_107  # a tenth
    first, second = positions(1, n, o * i), positions(2, n, o * i)
    assert len(first) == len(first.unique()) == n
    for counts in ((first // i).bincount(minlength=o), (first % i).bincount(minlength=i)):
        expected = float(counts.double().mean()) * 0.9
        assert 0.75 < float(counts.double().var()) / expected < 1.3
    shared = len(set(first.tolist()) & set(second.tolist()))
    assert abs(shared - n / 10) < 5 * (n / 10) ** 0.5


def test_positions_are_stored_only_where_a_file_brought_them(tmp_path):
    """From a seed: the trained values alone. From PEFT's file: its positions too, and they come back."""
    model = toy()
    generic(attached(model, "shira"))
    ad.save(model, tmp_path / "seeded")
    assert {n.rpartition(".")[2] for n in load_file(tmp_path / "seeded")} == {"lora_values"}

    folder = tmp_path / "peft"
    expected = trained_by_peft(qwen, peft.ShiraConfig(r=2, target_modules=QV), folder)
    model = qwen()
    ad.import_peft(model, folder)
    ad.save(model, tmp_path / "imported")
    assert {n.rpartition(".")[2] for n in load_file(tmp_path / "imported")} == {"lora_values", "basis_positions"}
    again = qwen()
    ad.load(again, tmp_path / "imported")
    assert torch.equal(logits(again), logits(model))
    assert (logits(again) - expected).norm() < 3e-6 * expected.norm()
    refused(ad.VARIANTS["shira"].Config(seed=None), 8, 8, "seed=None stands for the positions in a file")


@pytest.mark.parametrize("wrong", ["too large", "negative", "twice"])
def test_positions_outside_the_weight_are_refused(wrong, tmp_path):
    trained_by_peft(qwen, peft.ShiraConfig(r=2, target_modules=QV), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    indices = next(t for n, t in tensors.items() if n.endswith("shira_indices"))
    indices[:, 0] = {"too large": torch.tensor([0, 32]), "negative": torch.tensor([-1, 0]), "twice": indices[:, 1]}[
        wrong
    ]
    save_file(tensors, file)
    model = qwen()
    with pytest.raises(ad.AdapterError, match="not the positions of a layer's weights; expected distinct places"):
        ad.import_peft(model, tmp_path)
    assert not any("lora" in n for n, _ in model.named_parameters())


# -- what does not fit -------------------------------------------------------------------------------------------------
def test_shards_and_blocks_that_do_not_fit_are_refused():
    miss, gralora = ad.VARIANTS["miss"].Config, ad.VARIANTS["gralora"].Config
    refused(
        miss(r=2, mini=3), 8, 8, "layer q_proj: MiSSConfig: mini does not fit a layer, got 3; expected a divisor of"
    )
    refused(
        gralora(r=4, k=2), 8, 9, "layer q_proj: GraLoRAConfig: k does not fit a layer, got 2; expected a divisor of"
    )
    refused(gralora(r=8, k=2), 7, 9, "layer q_proj: GraLoRAConfig: r out of range, got 7; expected a multiple of k = 2")
    with pytest.raises(ad.AdapterError, match="r out of range, got 6; expected a multiple of k = 4"):
        gralora(r=6, k=4)


def test_peft_settings_without_a_form_here_are_refused(tmp_path):
    for config, fields, message in (
        (peft.MissConfig(r=8, target_modules=QV, init_weights="bat"), {}, "unsupported init_weights, got 'bat'"),
        (peft.GraloraConfig(r=4, hybrid_r=2, target_modules=QV), {}, "unsupported hybrid_r, got 2"),
        (peft.HiraConfig(r=4, target_modules=QV), {"rank_pattern": {"v_proj": 2}}, "unsupported rank_pattern"),
    ):
        peft.get_peft_model(qwen(), copy.deepcopy(config)).save_pretrained(tmp_path)
        rewrite(tmp_path, **fields)
        with pytest.raises(ad.AdapterError, match=message):
            ad.import_peft(qwen(), tmp_path)


def test_one_rank_for_all_layers_is_kept_where_peft_has_no_other(tmp_path):
    """Layers clamped to unequal ranks: MiSS goes out as LoRA, SHiRA is refused."""

    def model():
        torch.manual_seed(0)
        return nn.ModuleDict({"q_proj": nn.Linear(8, 8), "v_proj": nn.Linear(8, 2)})

    first = model()
    generic(ad.attach(first, small("miss", r=8)))
    ad.export_peft(first, tmp_path)
    second = model()
    assert ad.import_peft(second, tmp_path).variant.name == "lora"
    x = torch.randn(3, 8)
    for n in first:
        assert torch.allclose(first[n](x), second[n](x), atol=1e-5)
    third = model()
    ad.attach(third, small("shira", r=8))
    with pytest.raises(ad.AdapterError, match=r"shira: .*cannot be exported"):
        ad.export_peft(third, tmp_path)
