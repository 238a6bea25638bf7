"""PEFT as oracle: an exported adapter computes the same in PEFT, an adapter trained by PEFT the same here."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import adapters as ad
from adapters._peft import KINDS, PLAIN_LORA
from tests.conftest import make_model
from tests.oracles import oracle
from tests.toy import HAS_SITES, IDS, SETTINGS, attached, generic, rank_multiple, toy

peft = pytest.importorskip("peft")
warnings.filterwarnings("ignore", module="peft")
each_setting = pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=IDS)
ROUNDING = 3e-6  # ‖difference‖/‖logits‖; one rounding of fp32 is 6e-8, two layers of a few hundred products make 1e-6


def qwen():
    return make_model(16)


def llama():
    """With biases on q, k and v, which DoRA and RoAd treat differently from the weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=16, **sizes, num_key_value_heads=2, attention_bias=True, initializer_range=0.4)
    model = LlamaForCausalLM(config).eval()
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(p, std=0.3)
    return model


IDS_IN = torch.randint(13, (3, 9), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def logits(model):
    out = model(IDS_IN)
    return getattr(out, "logits", out)


def error(got, expected):
    return float((got - expected).norm() / expected.norm())


def config_of(folder):
    return json.loads((folder / "adapter_config.json").read_text())


def rewrite(folder, **fields):
    (folder / "adapter_config.json").write_text(json.dumps(config_of(folder) | fields))


def form_of(handle):
    """The variant whose PEFT kind this adapter is written in, or None where PEFT has no form for it."""
    name = handle.variant.name
    if name in KINDS and KINDS[name].can_write(handle.sites):
        return name
    linear = all(site.factors() is not None for site in handle.sites.values())
    return next(n for n, kind in KINDS.items() if kind is PLAIN_LORA) if linear else None


def skip_without_form(handle, folder):
    """What PEFT has no form for is refused, and leaves no file behind."""
    if form_of(handle) is None:
        with pytest.raises(ad.AdapterError, match="neither linear in x nor of one of PEFT's kinds"):
            ad.export_peft(handle.model, folder)
        assert not list(folder.iterdir())
        name = handle.variant.name
        pytest.skip(f"{name} has no PEFT form: define `factors`, or KIND in adapters/_peft_{name}.py")


def through_peft(make, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT warns of missing and of unexpected tensors
        warnings.filterwarnings("ignore", "Sparse invariant checks")  # torch does of SHiRA's sparse tensors
        return logits(peft.PeftModel.from_pretrained(make(), folder))


def untouched(model):
    """All state of a model that a failed import could have changed."""
    modules = {n: (sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()}
    return modules, {n: (p.requires_grad, p.clone()) for n, p in model.named_parameters()}, list(model.state_dict())


def same(before, after):
    return (
        before[0] == after[0]
        and before[2] == after[2]
        and before[1].keys() == after[1].keys()
        and all(
            a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(before[1].values(), after[1].values(), strict=True)
        )
    )


# -- export ------------------------------------------------------------------------------------------------------------
@each_setting
@pytest.mark.parametrize("make", [qwen, llama])
def test_peft_computes_the_same_and_so_does_the_import(make, name, settings, tmp_path):
    """From a generic point: ours = exported and loaded by PEFT = exported and imported, to fp32 rounding."""
    model = make()
    base = logits(model)
    handle = attached(model, name, **settings)
    generic(handle)
    expected = logits(model)
    assert error(expected, base) > 0.01
    skip_without_form(handle, tmp_path)
    size = ad.export_peft(model, tmp_path)
    assert size == (tmp_path / "adapter_model.safetensors").stat().st_size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert error(through_peft(make, tmp_path), expected) < ROUNDING

    again = make()
    imported = ad.import_peft(again, tmp_path)
    assert imported.sites.keys() == handle.sites.keys()
    assert imported.variant.name == form_of(handle)
    assert error(logits(again), expected) < ROUNDING
    # An imported adapter is like any other: it can be saved, loaded and exported.
    ad.save(again, tmp_path / "own.safetensors")
    with_own = make()
    ad.load(with_own, tmp_path / "own.safetensors")
    assert torch.equal(logits(with_own), logits(again))
    ad.export_peft(again, tmp_path / "second")
    for key, t in load_file(tmp_path / "second" / "adapter_model.safetensors").items():
        first = load_file(tmp_path / "adapter_model.safetensors")[key]
        assert error(t.double(), first.double()) < ROUNDING, key  # indices too


def test_ranks_are_the_smallest_exact_ones(tmp_path):
    """lora r, ablate k, pissa 2r or the layer's smaller side, residual delora 2r; every file says lora_alpha = r."""
    for name, settings, rank in (
        ("lora", {}, 8),
        ("antipasto", {}, 8),
        ("antipasto_dplr", {}, 8),
        ("antipasto_ablate", {}, 1),
        ("antipasto_ablate", {"k": 3}, 3),
        ("pissa", {}, 16),
        ("pissa", {"r": 12}, 16),  # v_proj is 32→16, so 24 would be too many; q_proj keeps its 24
        ("delora", {"residual_init": True}, 16),
    ):
        model = qwen()
        generic(attached(model, name, **settings))
        ad.export_peft(model, tmp_path)
        config, tensors = config_of(tmp_path), load_file(tmp_path / "adapter_model.safetensors")
        assert config["peft_type"] == "LORA"
        assert config["lora_alpha"] == config["r"]
        assert config["alpha_pattern"] == config["rank_pattern"]
        v = {len(t) for k, t in tensors.items() if "v_proj.lora_A" in k}
        assert v == {rank}, (name, settings)
        if settings.get("r") == 12:
            assert {len(t) for k, t in tensors.items() if "q_proj.lora_A" in k} == {24}
        assert all(t.dtype == torch.float32 for t in tensors.values())


class Chain(nn.Module):
    """Four layers of different sizes, under the names that the variants' presets look for."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.embedding = nn.Embedding(16, 16)
        sizes = {"q_proj": (16, 24), "v_proj": (24, 8), "k_proj": (8, 12), "down_proj": (12, 16)}
        self.block = nn.ModuleDict({n: nn.Linear(*size) for n, size in sizes.items()})
        self.other = nn.ModuleDict({"q_proj": nn.Linear(16, 16)})

    def forward(self, ids):
        h = self.embedding(ids)
        for layer in self.block.values():
            h = torch.tanh(0.1 * layer(h))  # far from saturation, where rounding is amplified
        return self.other["q_proj"](h)


@pytest.mark.parametrize("name", HAS_SITES)
def test_layers_may_have_different_ranks(name, tmp_path):
    """r larger than some layers allow; targets that only whole names tell apart; a training dtype of bf16."""
    model = Chain()
    multiple = rank_multiple(name)
    large = {"r": math.ceil(12 / multiple) * multiple} if multiple else {}
    handle = attached(model, name, targets=r"^block\.", dtype="bfloat16", **large)
    assert set(handle.clamped.values()) == ({8 // multiple * multiple} if multiple else set())
    generic(handle)
    expected = logits(model)
    skip_without_form(handle, tmp_path)
    ad.export_peft(model, tmp_path)
    assert config_of(tmp_path)["target_modules"] == sorted(handle.sites)
    assert error(through_peft(Chain, tmp_path), expected) < ROUNDING
    again = Chain()
    imported = ad.import_peft(again, tmp_path)
    assert set(imported.sites) == set(handle.sites)
    assert error(logits(again), expected) < ROUNDING
    ad.save(again, tmp_path / "own.safetensors")
    ad.detach(again)
    ad.load(again, tmp_path / "own.safetensors")
    assert error(logits(again), expected) < ROUNDING


def test_names_that_end_alike_need_a_regex(tmp_path):
    """`a.q_proj` is the end of `b.a.q_proj`: only a full match tells them apart."""

    def make():
        torch.manual_seed(0)
        inner = nn.ModuleDict({"a": nn.ModuleDict({"q_proj": nn.Linear(16, 16)})})
        outer = nn.ModuleDict({"a": nn.ModuleDict({"q_proj": nn.Linear(16, 16)}), "b": inner})

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.parts, self.embedding = outer, nn.Embedding(16, 16)
                self.a, self.b = outer["a"], inner
                del self.parts

            def forward(self, ids):
                return self.a["q_proj"](self.b["a"]["q_proj"](self.embedding(ids)))

        return Model()

    model = make()
    generic(attached(model, "lora", targets=r"^a\."))
    ad.export_peft(model, tmp_path)
    assert config_of(tmp_path)["target_modules"] == "a\\.q_proj"
    assert error(through_peft(make, tmp_path), logits(model)) < ROUNDING


def test_the_current_strength_is_exported(tmp_path):
    """`coeff` as it is set at the time; 0 is the base model."""
    model = qwen()
    base = logits(model)
    handle = attached(model, "antipasto_dplr")
    generic(handle)
    for coeff in (0.5, 0.0):
        handle.coeff = coeff
        ad.export_peft(model, tmp_path)
        assert error(through_peft(qwen, tmp_path), logits(model)) < ROUNDING
    assert torch.equal(logits(model), base)


def test_what_cannot_be_exported_says_so(tmp_path):
    """none and full; NaN; nothing attached; a folder that cannot be written. No file is left behind."""
    model, folder = toy(), tmp_path / "out"
    with pytest.raises(ad.AdapterError, match="nothing is attached"):
        ad.export_peft(model, folder)
    for cfg in (ad.NoneConfig(), ad.FullConfig()):
        with ad.attach(model, cfg), pytest.raises(ad.AdapterError, match="no adapter to export"):
            ad.export_peft(model, folder)
    handle = attached(model, "lora")
    next(iter(handle.trainable().values())).data[0] = float("nan")
    with pytest.raises(ad.AdapterError, match=r"NaN or Inf in base_model\.model\.layers"):
        ad.export_peft(model, folder)
    assert not folder.exists()
    next(iter(handle.trainable().values())).data[0] = 0
    folder.write_text("a file")
    with pytest.raises(ad.AdapterError, match="cannot write"):
        ad.export_peft(model, folder)


def test_neither_direction_imports_peft():
    """The library needs torch and safetensors only."""
    program = (
        "import sys, tempfile, torch, adapters as ad\n"
        "model = torch.nn.ModuleDict({'q_proj': torch.nn.Linear(4, 4)})\n"
        "ad.attach(model, ad.LoRAConfig(r=2))\n"
        "with tempfile.TemporaryDirectory() as d:\n"
        "    ad.export_peft(model, d); ad.detach(model); ad.import_peft(model, d)\n"
        "assert not {'peft', 'transformers'} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120)
    assert result.returncode == 0


# -- import ------------------------------------------------------------------------------------------------------------
QV = ["q_proj", "v_proj"]
# Label → variant and PEFT's config, from tests/oracles/.
TRAINED = {
    label: (variant, getattr(peft, config)(**{"target_modules": QV} | fields))
    for variant in KINDS
    for label, (config, fields) in oracle(variant, "PEFT", {}).items()
}


def trained_by_peft(make, config, folder, **settings):
    """A PEFT model after three steps, saved; returns its logits."""
    model = peft.get_peft_model(make(), copy.deepcopy(config), **settings)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        model(IDS_IN, labels=IDS_IN).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(folder)
    return logits(model)


def test_every_shipped_kind_is_among_those_that_peft_trains():
    """A new kind may do without: both directions are compared with PEFT above, from a generic point."""
    kinds = {"lora", "dora", "delora", "ia3", "ia3_ff", "hra", "road"}
    assert kinds <= KINDS.keys() & {variant for variant, _ in TRAINED.values()}


@pytest.mark.parametrize("kind", list(TRAINED))
@pytest.mark.parametrize("make", [qwen, llama])
def test_what_peft_trained_computes_the_same_here(make, kind, tmp_path):
    name, config = TRAINED[kind]
    expected = trained_by_peft(make, config, tmp_path)
    model = make()
    base, before = logits(model), untouched(model)
    assert error(expected, base) > 0.01
    handle = ad.import_peft(model, tmp_path)
    assert handle.variant.name == name
    assert not handle.clamped
    assert error(logits(model), expected) < ROUNDING
    # Training can continue here, and the adapter goes back to PEFT.
    model(IDS_IN, labels=IDS_IN).loss.backward()
    assert all(p.grad is not None for p in handle.trainable().values())
    ad.export_peft(model, tmp_path / "back")
    assert error(through_peft(make, tmp_path / "back"), expected) < ROUNDING
    ad.detach(model)
    assert same(before, untouched(model))
    assert torch.equal(logits(model), base)


LORA = {"r": 4, "target_modules": QV}
REFUSED = {
    "bias": (peft.LoraConfig(**LORA, bias="lora_only"), {}, "unsupported bias, got 'lora_only'"),
    "modules_to_save": (peft.LoraConfig(**LORA, modules_to_save=["lm_head"]), {}, "unsupported modules_to_save"),
    "lora_bias": (peft.LoraConfig(**LORA, lora_bias=True), {}, "unsupported lora_bias"),
    "layer_replication": (peft.LoraConfig(**LORA), {"layer_replication": [[0, 2]]}, "unsupported layer_replication"),
    "fan_in_fan_out": (peft.LoraConfig(**LORA), {"fan_in_fan_out": True}, "unsupported fan_in_fan_out"),
    "tokens": (peft.LoraConfig(**LORA, trainable_token_indices=[1]), {}, "unsupported trainable_token_indices"),
    "pissa": (peft.LoraConfig(**LORA, init_lora_weights="pissa"), {}, "unsupported init_lora_weights, got 'pissa'"),
    "embedding": (peft.LoraConfig(r=4, target_modules=["embed_tokens"]), {}, "unsupported tensor .*embed_tokens"),
    "both sides": (
        peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
        {},
        r"layers of different kinds, ia3_ff \(.*down_proj\) and ia3 \(.*k_proj\)",
    ),
    "GS": (peft.HRAConfig(r=4, target_modules=QV, apply_GS=True), {}, "unsupported apply_GS"),
    "odd": (peft.HRAConfig(r=3, target_modules=QV, init_weights=False), {}, "r out of range, got 3"),
    "another kind": (peft.LNTuningConfig(target_modules=["norm"]), {}, "unsupported peft_type, got 'LN_TUNING'"),
    "no kind": (peft.LoraConfig(**LORA), {"peft_type": None}, "unsupported peft_type, got None; expected .*LORA"),
    "a later field": (peft.LoraConfig(**LORA), {"use_wormhole": True}, "unsupported use_wormhole, got True"),
    "another rank": (peft.LoraConfig(**LORA), {"r": 5}, "has rank 4, the config says 5"),
    "slow regex": (peft.LoraConfig(**LORA), {"rank_pattern": {"(a+)+$": 4}}, r"rank_pattern '\(a\+\)\+\$'"),
    "bad regex": (peft.LoraConfig(**LORA), {"rank_pattern": {"(": 4}}, "unusable adapter_config.json"),
    "alpha": (peft.LoraConfig(**LORA), {"lora_alpha": "8"}, "alpha out of range, got '8'"),
    "no magnitude": (peft.LoraConfig(**LORA), {"use_dora": True}, "wrong tensors of layer"),
    "not flag": (peft.LoraConfig(**LORA), {"use_dora": "yes"}, "unusable use_dora, got 'yes'"),
    "road": (peft.RoadConfig(group_size=4, target_modules=QV), {"variant": "road_3"}, "unusable adapter_config.json"),
    "oft blocks": (
        peft.OFTConfig(r=4, oft_block_size=0, target_modules=QV),
        {},
        "unsupported r, a number of blocks, got 4",
    ),
    "oft series": (peft.OFTConfig(oft_block_size=4, target_modules=QV), {"peft_version": "0.17.1"}, "of an older PEFT"),
    "coft": (peft.OFTConfig(oft_block_size=4, target_modules=QV, coft=True), {}, "unsupported coft"),
    "oft block": (peft.OFTConfig(oft_block_size=4, target_modules=QV), {"oft_block_size": 5}, "block does not fit"),
    "both": (peft.LoKrConfig(r=1, target_modules=QV, decompose_both=True), {}, "unsupported decompose_both"),
    "vera": (peft.VeraConfig(r=4, target_modules=QV), {"save_projection": False}, "unsupported save_projection"),
    "group": (peft.RoadConfig(group_size=4, target_modules=QV), {"group_size": 10}, "group_size does not fit a layer"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_is_not_supported_is_refused_by_name(case, tmp_path):
    """One AdapterError that names the field; the model is unchanged."""
    config, fields, message = REFUSED[case]
    peft.get_peft_model(qwen(), copy.deepcopy(config)).save_pretrained(tmp_path)
    rewrite(tmp_path, **fields)
    model = qwen()
    before = untouched(model)
    with pytest.raises(ad.AdapterError, match=message) as caught:
        ad.import_peft(model, tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert same(before, untouched(model))


def test_several_adapters_are_refused(tmp_path):
    model = peft.get_peft_model(qwen(), peft.LoraConfig(**LORA))
    model.add_adapter("second", peft.LoraConfig(**LORA))
    model.save_pretrained(tmp_path / "two")
    model.save_pretrained(tmp_path / "one", selected_adapters=["default"])
    message = r"several adapters \(\S+second beside the default\)\. Give the folder of one of them"
    with pytest.raises(ad.AdapterError, match=message):
        ad.import_peft(qwen(), tmp_path / "two")
    ad.import_peft(qwen(), tmp_path / "two" / "second")
    model.save_pretrained(tmp_path / "named", selected_adapters=["second"])
    assert not (tmp_path / "named" / "adapter_config.json").exists()
    ad.import_peft(qwen(), tmp_path / "named")  # PEFT saved it to named/second
    (tmp_path / "one" / "checkpoint-500").mkdir()
    (tmp_path / "one" / "checkpoint-500" / "adapter_config.json").write_text("{}")
    ad.import_peft(qwen(), tmp_path / "one")


def test_broken_folders_are_refused(tmp_path):
    """Missing, unparsable, misshapen, non-finite, of another model, pickled: one AdapterError, an unchanged model."""
    sound = tmp_path / "sound"
    trained_by_peft(qwen, TRAINED["delora"][1], sound)
    weights = "adapter_model.safetensors"

    def change(key, value):
        def apply(folder):
            tensors = load_file(folder / weights)
            full = next(k for k in tensors if k.endswith(key))
            tensors[full] = value(tensors[full])
            save_file(tensors, folder / weights)

        return apply

    def pickled(folder):
        (folder / weights).unlink()
        torch.save({}, folder / "adapter_model.bin")

    def renamed(folder):
        tensors = load_file(folder / weights)
        save_file({k.replace("layers.1", "layers.7"): t for k, t in tensors.items()}, folder / weights)

    for break_it, message in (
        (lambda f: (f / "adapter_config.json").unlink(), "no readable adapter_config.json"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "no readable adapter_config.json"),
        (lambda f: (f / "adapter_config.json").write_text("[" * 100_000), "no readable adapter_config.json"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "is not a JSON object"),
        (lambda f: (f / weights).unlink(), "no such file"),
        (lambda f: (f / weights).write_bytes((f / weights).read_bytes()[:-8]), "not a readable safetensors"),
        (lambda f: save_file({}, f / weights), "no tensors"),
        (pickled, "is a pickle"),
        (renamed, r"layers\.7\..* is not a linear layer of this model"),
        (change("delora_A", lambda t: t[:, :-1].contiguous()), "wrong shape of layer"),
        (change("delora_A", lambda t: t[:-1].contiguous()), "has rank 3"),
        (change("delora_lambda", lambda t: t.expand(2).contiguous()), "wrong shape of layer"),
        (change("delora_B", lambda t: t / 0), "NaN or Inf in"),
        (change("delora_B", lambda t: t.long()), "wrong dtype of .*, got torch.int64; expected floating-point"),
        (change("delora_A", lambda t: t[0, 0]), "wrong|unusable"),
        (change("delora_w_norm", lambda t: 1.001 * t), "not the column norms of this model"),
        (change("delora_w_norm", lambda t: t[:-1].contiguous()), "wrong shape of layer"),
    ):
        folder = tmp_path / "broken"
        shutil.copytree(sound, folder)
        break_it(folder)
        model = qwen()
        before = untouched(model)
        with pytest.raises(ad.AdapterError, match=message):
            ad.import_peft(model, folder)
        assert same(before, untouched(model))
        shutil.rmtree(folder)
    model = qwen()
    handle = ad.import_peft(model, sound)
    with pytest.raises(ad.AdapterError, match="already attached"):
        ad.import_peft(model, sound)
    assert ad.attachment(model) is handle


def test_zero_rows_under_dora_are_zero_or_refused(tmp_path):
    """A row of W that is zero has no magnitude to change: m = 0 comes in as δ = 0, anything else is refused."""

    def make():
        model = qwen()
        with torch.no_grad():
            model.model.layers[0].self_attn.q_proj.weight[2] = 0
        return model

    model = make()
    generic(attached(model, "dora"))
    ad.export_peft(model, tmp_path)
    again = make()
    ad.import_peft(again, tmp_path)
    assert error(logits(again), logits(model)) < ROUNDING
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    magnitude = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"
    tensors[f"{magnitude}.weight"] = tensors.pop(magnitude)  # PEFT reads both names
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    assert error(through_peft(make, tmp_path), logits(model)) < ROUNDING
    third = make()
    ad.import_peft(third, tmp_path)
    assert torch.equal(logits(third), logits(again))
    tensors[f"{magnitude}.weight"][2] = 1
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ad.AdapterError, match=r"layers\.0\.self_attn\.q_proj.*is not zero where"):
        ad.import_peft(make(), tmp_path)
