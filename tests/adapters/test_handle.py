"""The handle and the way back: knobs, wrappers around the model, detach whatever happened to the model meanwhile."""

from __future__ import annotations

import copy
import gc
import logging
import re
import weakref
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim import optimizer as optimizers
from torch.optim.swa_utils import AveragedModel

import adapters as ad
from tests.toy import attached, generic, small, tokens, toy

ROOT = Path(__file__).resolve().parents[2]
EVERY = [n for n in ad.VARIANTS if n != "none"]


@torch.no_grad()
def logits(model):
    return model(tokens())


def trained(name, model=None):
    model = toy() if model is None else model
    handle = attached(model, name)
    generic(handle)
    return model, handle


# -- knobs -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", EVERY)
def test_disabled_is_the_base_for_a_block(name):
    """Bit for bit, in both grad modes, nested, after an error, in a copy, and when detached inside."""
    base = toy()(tokens()).detach()
    model, handle = trained(name)
    adapted = logits(model)
    assert not torch.equal(adapted, base)
    with handle.disabled():
        with handle.disabled(), handle.frozen():
            assert torch.equal(logits(model), base)
        assert torch.equal(model(tokens()).detach(), base)
        if name != "full":
            assert torch.equal(logits(copy.deepcopy(model)), adapted)
    assert torch.equal(logits(model), adapted)
    with pytest.raises(IndexError), handle.disabled():
        model(tokens() + 1000)
    assert torch.equal(logits(model), adapted)
    with handle.disabled():
        ad.detach(model)
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), base)


def test_what_is_saved_while_disabled_is_the_adapter(tmp_path):
    for name in ("lora", "full"):
        model, handle = trained(name)
        expected = logits(model)
        with handle.disabled():
            if name == "full":
                with pytest.raises(ad.AdapterError, match="save: the trained weights are swapped out"):
                    ad.save(model, tmp_path / "a")
                continue
            ad.save(model, tmp_path / "a")
        assert torch.equal(logits(ad.load(toy(), tmp_path / "a").model), expected)


def test_coeff_belongs_to_a_family():
    """Where there is none the message names the variants that have it, and what turns any variant off."""
    message = r"^lora: has no coeff; expected one of antipasto, .*antipasto_rot. `with handle.disabled\(\):` turns"
    _, handle = trained("lora")
    with pytest.raises(ad.AdapterError, match=message):
        handle.coeff = 0.5
    with pytest.raises(ad.AdapterError, match=message):
        _ = handle.coeff


def test_repr_says_what_is_attached():
    model, handle = trained("antipasto_dplr")
    handle.coeff = 0.5
    base = sum(p.numel() for p in toy().parameters())
    share = f"{100 * 224 / base:.3g}"
    told = f"<antipasto_dplr r=8 lora_rank=3 coeff=0.5 targets=qv: 4 layers, 224 parameters, {share} % of the model>"
    assert repr(handle) == told
    ad.detach(model)
    assert repr(handle) == "<antipasto_dplr, detached>"
    with ad.attach(model, ad.FullConfig()) as handle:
        assert repr(handle) == f"<full: all weights, {base:,} parameters, 100 % of the model>"
    with ad.attach(model, ad.LoRAConfig(r=2, layers=1, targets=r"q_proj$")) as handle:
        assert "r=2 alpha=64.0 scaling=standard targets=q_proj$ layers=1: 1 layers, 80 parameters" in repr(handle)


@pytest.mark.parametrize("page", ["README.md", "docs/library.md"])
def test_the_library_section_of_the_readme_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    section = (ROOT / page).read_text(encoding="utf-8").split("# As a library")[1].split("\n## ")[0]
    code = "\n".join(re.findall(r"^    (.*)$", section, re.MULTILINE))
    assert "ad.load" in code
    model = toy()
    base = logits(model)
    names = {"model": model, "batch": tokens()}
    exec(code, names)
    assert names["handle"].is_attached
    ad.detach(model)
    assert torch.equal(logits(model), base)


# -- optimizer hooks ---------------------------------------------------------------------------------------------------
def test_a_dropped_model_leaves_no_optimizer_hook():
    """Nor does a deep copy; variants without sites have none at all."""
    gc.collect()
    before = set(optimizers._global_optimizer_post_hooks)
    for name in ("antipasto_ablate", "lora", "full"):
        model, handle = trained(name)
        twin = copy.deepcopy(model)
        assert len(set(optimizers._global_optimizer_post_hooks) - before) == (2 if handle.sites else 0), name
        gone = weakref.ref(handle)
        del model, handle, twin
        gc.collect()
        assert gone() is None
        assert set(optimizers._global_optimizer_post_hooks) == before


# -- detach ------------------------------------------------------------------------------------------------------------
class Normed(nn.Module):
    """A toy whose first part keeps statistics; `shift` is a buffer outside the state dict."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(13)
        self.toy = toy()
        self.register_buffer("shift", torch.zeros(1), persistent=False)

    def forward(self, ids):
        y = self.toy(ids)
        return self.norm(y.flatten(0, 1)).view_as(y) + self.shift


def changes(model):
    """What users do to a model with an adapter on it."""
    model.extra = nn.Linear(3, 3)
    model.layers[0].extra = nn.Linear(3, 3)
    model.lm_head = nn.Linear(16, 5)
    del model.layers[1].k_proj
    model.layers[1].q_proj = nn.Linear(16, 24)  # an adapted layer
    for key in [k for k in model.layers[0].v_proj._parameters if k.startswith("lora_")][:1]:
        delattr(model.layers[0].v_proj, key)
    model.embedding.load_state_dict({"weight": torch.ones(13, 16)}, assign=True)


@pytest.mark.parametrize("name", [*EVERY, "none"])
def test_detach_after_the_model_was_changed(name):
    """What is still there is restored, what is new stays; nothing of the adapter is left on old or new modules."""
    model = toy()
    model.embedding.weight.requires_grad_(False)
    flags = {p: p.requires_grad for p in model.parameters()}
    replaced = model.layers[1].q_proj
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    attached(model, name) if name not in ("full", "none") else ad.attach(model, small(name))
    changes(model)
    ad.detach(model)
    for module in (*model.modules(), replaced):
        own = [*vars(module), *module._parameters, *module._buffers]
        assert not [k for k in own if k.startswith(("lora_", "basis_", "_adapters", "_apply"))]
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(p.requires_grad == flag for p, flag in flags.items())
    assert not model.embedding.weight.requires_grad
    assert model.extra.weight.requires_grad
    assert model.lm_head.weight.requires_grad
    assert torch.equal(model.layers[0].q_proj.weight, before["layers.0.q_proj.weight"])
    assert torch.equal(replaced.weight, before["layers.1.q_proj.weight"])
    with attached(model, "lora"):  # clean enough to begin again
        pass


def test_a_step_back_that_fails_does_not_keep_the_others_back():
    model, handle = trained("lora")

    def fail():
        raise RuntimeError("broken")

    handle.undo_steps.insert(3, fail)
    with pytest.raises(RuntimeError, match="broken"):
        ad.detach(model)
    assert not any("lora_" in n for n, _ in model.named_parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(logits(model), logits(toy()))


@pytest.mark.parametrize("name", EVERY)
def test_statistics_go_back_with_detach(name):
    """BatchNorm in training mode moves the base's buffers under any variant; the state dict is restored, no more."""
    model, ids = Normed(), tokens()
    before = copy.deepcopy(model.state_dict())
    handle = attached(model, name) if name != "full" else ad.attach(model, small(name))
    optimizer = torch.optim.SGD(ad.parameter_groups(model, lr=0.1))
    for _ in range(2):
        F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
        optimizer.step()
    model.shift += 1
    assert not torch.equal(model.norm.running_mean, before["norm.running_mean"])
    assert int(model.norm.num_batches_tracked) == 2
    handle.detach()
    state = model.state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(state[k].view(torch.uint8), v.view(torch.uint8)) for k, v in before.items() if v.dim())
    assert int(model.norm.num_batches_tracked) == 0
    assert float(model.shift) == 1
    with pytest.raises(ad.AdapterError, match="not attached"):
        handle.detach()


def test_full_saves_the_statistics_it_moved(tmp_path):
    """In evaluation mode the loaded model is the trained one; an older file, without them, still loads."""
    path, ids = tmp_path / "a", tokens()
    model = Normed()
    base = copy.deepcopy(model.state_dict())
    handle = ad.attach(model, ad.FullConfig())
    generic(handle)
    for _ in range(3):
        model(ids)
    model.eval()
    expected = logits(model)
    ad.save(model, path)
    other = Normed().eval()
    with ad.load(other, path):
        assert torch.equal(logits(other), expected)
        assert int(other.norm.num_batches_tracked) == 3
        ad.save(other, tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == path.read_bytes()
    assert all(torch.equal(v, base[k]) for k, v in other.state_dict().items())

    other.train()
    with ad.attach(other, ad.FullConfig()):
        ad.save(other, path)  # nothing moved, so no buffer is stored, as once none was
    ad.detach(model)
    with ad.load(model, path):
        assert torch.equal(model.norm.running_mean, base["norm.running_mean"])
    plain = toy()
    with pytest.raises(ad.AdapterError, match=r"unknown tensor|missing tensor"):
        ad.load(plain, path)


# -- wrappers ----------------------------------------------------------------------------------------------------------
def compiled(model):
    return torch.compile(model, backend="eager")


def parts_compiled(model):
    model.layers[0] = compiled(model.layers[0])
    model.layers[1].q_proj = nn.DataParallel(model.layers[1].q_proj)
    return model


def distributed(model):
    return nn.parallel.DistributedDataParallel(model)


def checkpointed(model):
    model.layers[1] = checkpoint_wrapper(model.layers[1])
    return model


WRAPPERS = {
    "compiled": compiled,
    "parts": parts_compiled,
    "DataParallel": nn.DataParallel,
    "DDP": distributed,
    "AveragedModel": AveragedModel,
    "checkpointed": checkpointed,
    "several": lambda model: compiled(distributed(model)),
}


@pytest.fixture
def process_group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("how", list(WRAPPERS))
def test_names_do_not_show_wrappers(how, tmp_path, process_group):
    """Attach, groups, save, load, detach, PEFT through a wrapper; the same bytes and names as with the bare model."""
    wrap, bare_file, wrapped_file = WRAPPERS[how], tmp_path / "a", tmp_path / "b"
    for name in ("antipasto_dplr", "full"):
        cfg = small(name, targets=(r"^layers\.0\.q_proj$", r"^layers\.1\.[qv]_proj$"))
        bare = toy()
        handle = ad.attach(bare, cfg, seed=0)
        generic(handle)
        expected = logits(bare)
        ad.save(bare, bare_file)

        wrapped = wrap(toy())
        other = ad.attach(wrapped, cfg, seed=0)
        generic(other)
        assert list(other.trainable()) == list(handle.trainable())
        assert ad.attachment(wrapped) is other
        with pytest.raises(ad.AdapterError, match="already attached"):
            ad.attach(wrapped, cfg)
        grouped = [p for g in ad.parameter_groups(wrapped, lr=1.0) for p in g["params"]]
        assert {id(p) for p in grouped} == {id(p) for p in other.trainable().values()}
        ad.save(wrapped, wrapped_file)
        assert wrapped_file.read_bytes() == bare_file.read_bytes()
        ad.detach(wrapped)
        ad.load(wrapped, bare_file)
        with torch.compiler.set_stance("force_eager"):  # the tests' shape checks cannot be traced
            assert torch.equal(logits(wrapped), expected)
        if name != "full":
            for model, folder in ((bare, "bare"), (wrapped, "wrapped")):
                ad.export_peft(model, tmp_path / folder)
            for part in ("adapter_config.json", "adapter_model.safetensors"):
                assert (tmp_path / "bare" / part).read_bytes() == (tmp_path / "wrapped" / part).read_bytes()
            ad.detach(wrapped)
            assert ad.import_peft(wrapped, tmp_path / "bare").sites.keys() == handle.sites.keys()
        ad.detach(bare)
        ad.load(bare, wrapped_file)
        assert torch.equal(logits(bare), expected)


def test_a_part_of_ones_own_named_module_keeps_its_name():
    model = nn.ModuleDict({"module": nn.ModuleDict({"q_proj": nn.Linear(4, 4)})})
    with ad.attach(model, ad.LoRAConfig(r=2)) as handle:
        assert list(handle.sites) == ["module.q_proj"]


def test_ddp_that_began_before_the_adapter_is_warned_of(process_group, caplog):
    with caplog.at_level(logging.WARNING, "adapters"):
        ad.attach(distributed(toy()), small("lora"))
    assert "attach before wrapping in DistributedDataParallel" in caplog.text
