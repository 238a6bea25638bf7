"""Which layers presets and regexes take on the models people use, what they leave out, and what they say about it."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import adapters as ad
from adapters._targets import fold, select_targets
from tests import zoo
from tests.toy import Reader, toy, trained

ROOT = Path(ad.__file__).parents[1]
LLAMA = "model.layers.*.self_attn.{q,k,v,o}_proj"
EXPECTED = {  # model → qv; attn; mlp; what `all` leaves out
    "llama": (
        "model.layers.*.self_attn.{q,v}_proj",
        LLAMA,
        "model.layers.*.mlp.{gate,up,down}_proj",
        "lm_head",
    ),
    "llama classifier": (
        "model.layers.*.self_attn.{q,v}_proj",
        LLAMA,
        "model.layers.*.mlp.{gate,up,down}_proj",
        "score",
    ),
    "phi3": (
        "model.layers.*.self_attn.qkv_proj",
        "model.layers.*.self_attn.{o_proj,qkv_proj}",
        "model.layers.*.mlp.{gate_up,down}_proj",
        "lm_head",
    ),
    "neox": (
        "gpt_neox.layers.*.attention.query_key_value",
        "gpt_neox.layers.*.attention.{query_key_value,dense}",
        "gpt_neox.layers.*.mlp.{dense_h_to_4h,dense_4h_to_h}",
        "lm_head",
    ),
    "gpt2": (
        "transformer.h.*.attn.c_attn",
        "transformer.h.*.attn.{c_attn,c_proj}",
        "transformer.h.*.mlp.{c_fc,c_proj}",
        "lm_head",
    ),
    "bert classifier": (
        "bert.encoder.layer.*.attention.self.{query,value}",
        "bert.encoder.layer.*.attention.{self.query,self.key,self.value,output.dense}",
        "bert.encoder.layer.*.{intermediate,output}.dense",
        "bert.pooler.dense classifier",
    ),
    "bert": (
        "bert.encoder.layer.*.attention.self.{query,value}",
        "bert.encoder.layer.*.attention.{self.query,self.key,self.value,output.dense}",
        "bert.encoder.layer.*.{intermediate,output}.dense",
        "cls.predictions.{transform.dense,decoder}",
    ),
    "t5": (
        "encoder.block.*.layer.*.SelfAttention.{q,v} decoder.block.*.layer.*.{Self,EncDec}Attention.{q,v}",
        "encoder.block.*.layer.*.SelfAttention.{q,k,v,o} decoder.block.*.layer.*.{Self,EncDec}Attention.{q,k,v,o}",
        "{encoder,decoder}.block.*.layer.*.DenseReluDense.{wi,wo}",
        "lm_head",
    ),
    "t5 questions": (
        "encoder.block.*.layer.*.SelfAttention.{q,v} decoder.block.*.layer.*.{Self,EncDec}Attention.{q,v}",
        "encoder.block.*.layer.*.SelfAttention.{q,k,v,o} decoder.block.*.layer.*.{Self,EncDec}Attention.{q,k,v,o}",
        "{encoder,decoder}.block.*.layer.*.DenseReluDense.{wi,wo}",
        "qa_outputs",
    ),
    "whisper": (
        "model.encoder.layers.*.self_attn.{q,v}_proj model.decoder.layers.*.{self,encoder}_attn.{q,v}_proj",
        "model.encoder.layers.*.self_attn.{q,k,v,out}_proj model.decoder.layers.*.{self,encoder}_attn.{q,k,v,out}_proj",
        "model.{encoder,decoder}.layers.*.{fc1,fc2}",
        "proj_out",
    ),
    "mixtral": ("model.layers.*.self_attn.{q,v}_proj", LLAMA, None, "lm_head"),
    "qwen moe": (
        "model.layers.*.self_attn.{q,v}_proj",
        LLAMA,
        "model.layers.*.mlp.shared_expert.{gate,up,down}_proj",
        "lm_head",
    ),
    "mamba": (None, None, None, "lm_head backbone.layers.*.mixer.dt_proj"),
}


@pytest.fixture(autouse=True)
def _warnings(caplog):
    caplog.set_level(logging.WARNING, "adapters")  # other tests silence the logger


def expanded(short):
    """`a.{b,c}` stands for a.b and a.c; spaces separate."""
    names = set()
    for name in short.split():
        if group := re.search(r"\{(.*?)\}", name):
            names |= expanded(" ".join(name.replace(group[0], part, 1) for part in group[1].split(",")))
        else:
            names.add(name)
    return names


def selected(model, targets, **more):
    try:
        return {fold(n) for n in select_targets(model, ad.LoRAConfig(targets=targets, **more))}
    except ad.AdapterError:
        return set()


def linears(model):
    from transformers.pytorch_utils import Conv1D

    return {n for n, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D))}


@pytest.mark.parametrize("name", list(zoo.BUILDERS))
def test_presets_know_the_names_models_use(name):
    """By hand for every model; `all` is every linear layer but heads and layers that never run."""
    model = zoo.build(name)
    qv, attn, mlp, without = EXPECTED[name]
    for preset, short in (("qv", qv), ("attn", attn), ("mlp", mlp)):
        assert selected(model, preset) == (expanded(short) if short else set()), preset
    every = {fold(n) for n in linears(model)}
    assert selected(model, "all") == every - expanded(without)
    assert selected(model, "kv") <= selected(model, "attn") <= selected(model, "all")
    assert select_targets(model, ad.LoRAConfig(targets=r"(lm_head|score|classifier|proj_out|qa_outputs|decoder)$"))


@pytest.mark.parametrize("name", list(zoo.BUILDERS))
def test_every_layer_that_all_takes_is_trained(name, caplog):
    """A forward and a backward pass reach each of them: no gradient is missing, no warning is given."""
    model, batch = zoo.build(name), zoo.inputs(name)
    handle = ad.attach(model, ad.LoRAConfig(r=2, targets="all"), seed=0)
    with torch.no_grad():
        for p in handle.trainable().values():
            p.add_(0.1)
    caplog.clear()
    outputs = model(**batch)
    scores = outputs[0] if name != "t5 questions" else outputs.start_logits + outputs.end_logits
    scores.square().sum().backward()
    optimizer = torch.optim.SGD(handle.trainable().values(), lr=0.1)
    optimizer.step()
    assert not [r for r in caplog.records if r.name == "adapters"]
    assert all(p.grad is not None and p.grad.any() for p in handle.trainable().values())


def test_one_line_says_what_a_preset_left_out_and_what_is_fused(caplog):
    caplog.set_level(logging.INFO, "adapters")
    cases = (  # model, preset, level, what the line says
        ("llama", "all", logging.INFO, ["heads left out: lm_head"]),
        ("whisper", "all", logging.INFO, ["heads left out: proj_out"]),
        ("phi3", "qv", logging.INFO, [r"adapted whole: model\.layers\.\*\.self_attn\.qkv_proj"]),
        ("phi3", "mlp", logging.INFO, [r"adapted whole: model\.layers\.\*\.mlp\.gate_up_proj"]),
        ("neox", "attn", logging.INFO, [r"adapted whole: .*query_key_value$"]),
        ("gpt2", "kv", logging.INFO, [r"adapted whole: .*c_attn$"]),
        ("qwen moe", "mlp", logging.WARNING, [r"not adapted.*experts\.gate_up_proj, .*experts\.down_proj$"]),
        ("mixtral", "all", logging.WARNING, ["heads left out: lm_head", r"not adapted.*experts\.down_proj$"]),
        ("mamba", "all", logging.WARNING, [r"never run.*mixer\.dt_proj"]),
        ("llama", "qv", None, []),
        ("bert", "attn", None, []),
        ("gpt2", r"c_attn|lm_head", None, []),
    )
    for name, targets, level, parts in cases:
        caplog.clear()
        ad.attach(zoo.build(name), ad.LoRAConfig(r=2, targets=targets))
        lines = [r for r in caplog.records if "targets=" in r.getMessage()]
        assert [r.levelno for r in lines] == ([level] if level else []), (name, targets)
        for part in parts:
            assert re.search(part, lines[0].getMessage()), (name, targets)
    with pytest.raises(ad.AdapterError, match=r"no linear layer matches \(weights not adapted.*experts\.down_proj\)"):
        ad.attach(zoo.build("mixtral"), ad.LoRAConfig(targets="mlp"))


def test_heads_of_models_of_ones_own():
    """An output layer after numbered blocks, one that shares the embedding's weight, models inside others."""

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.reader = zoo.build("whisper")
            self.lm = zoo.build("llama classifier")

    class Asked(nn.Module):
        """Its output embedding comes first, is numbered, and only the method tells."""

        def __init__(self):
            super().__init__()
            self.heads, self.blocks = nn.ModuleList([nn.Linear(4, 9)]), nn.ModuleList([nn.Linear(4, 4)])
            self.fails = Unable()

        def get_output_embeddings(self):
            return self.heads[0]

    class Unable(nn.Linear):
        def __init__(self):
            super().__init__(4, 4)

        def get_output_embeddings(self):
            raise NotImplementedError

    assert selected(Asked(), "all") == {"blocks.*"}  # `fails` comes after the last block
    tied = nn.Module()
    tied.embedding, tied.first, tied.out = nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5, bias=False)
    tied.out.weight = tied.embedding.weight
    assert selected(tied, "all") == {"first"}
    assert selected(toy(), "all") == {f"layers.*.{n}" for n in ("q_proj", "k_proj", "v_proj", "down_proj")}
    assert not selected(Wrapped(), "all") & {"reader.proj_out", "lm.score"}
    plain = nn.ModuleDict({"q_proj": nn.Linear(4, 4), "fc1": nn.Linear(4, 4), "other": nn.Linear(4, 4)})
    assert selected(plain, "all") == {"q_proj", "fc1", "other"}  # no blocks, so nothing lies outside them


# -- layers that never run ---------------------------------------------------------------------------------------------
def encoder():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def test_layers_whose_weights_are_read_are_refused_or_left_out(caplog):
    """MultiheadAttention's out_proj, Mamba's dt_proj: presets leave them out, regexes that name them are refused."""
    with ad.attach(encoder(), ad.LoRAConfig(r=2, targets="all")) as handle:
        assert {fold(n) for n in handle.sites} == {"layers.*.linear1", "layers.*.linear2"}
    for part in (r"never run.*self_attn\.out_proj", r"no linear layer holds them.*self_attn\.in_proj_weight"):
        assert re.search(part, caplog.text)
    with pytest.raises(ad.AdapterError, match=r"no linear layer matches \(layers left out.*self_attn\.out_proj"):
        ad.attach(encoder(), ad.LoRAConfig(targets="attn"))
    for model, targets, message in (
        (encoder(), "out_proj", r"layers\.0\.self_attn\.out_proj: MultiheadAttention reads this layer's weight"),
        (zoo.build("mamba"), "dt_proj|x_proj", r"backbone\.layers\.0\.mixer\.dt_proj: MambaMixer reads"),
    ):
        with pytest.raises(ad.AdapterError, match=message):
            ad.attach(model, ad.LoRAConfig(targets=targets))
        assert not any(m._forward_hooks for m in model.modules())


class SometimesReader(Reader):
    """Calls `second` in evaluation mode only, as fused training kernels do."""

    def forward(self, x):
        return super().forward(x) if self.training else self.second(self.first(x))


def test_layers_that_do_not_run_are_named_once(caplog):
    """After the first forward pass, or at the first step where only gradients can tell; never a layer that works."""
    both = ad.LoRAConfig(r=2, targets="first|second")

    def lines():
        return [r.getMessage() for r in caplog.records]

    model = Reader()
    ad.attach(model, both)
    model(torch.ones(2, 4))
    (line,) = lines()
    assert re.search("not called in the model's first forward pass.*: second$", line)
    trained(model)
    assert lines() == [line]

    caplog.clear()
    model = SometimesReader().eval()
    ad.attach(model, both)
    model(torch.ones(2, 4))
    assert not lines()
    trained(model.train())
    (line,) = lines()
    assert re.search("without a gradient in the first optimizer step.*: second$", line)

    caplog.clear()
    working = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})  # an optimizer for each layer, out of step
    handle = ad.attach(working, ad.LoRAConfig(r=2, targets="all"))
    for name in "ab":
        working[name](torch.ones(1, 4)).sum().backward()
        torch.optim.SGD(handle.sites[name].parameters().values(), lr=0.1).step()
    assert not lines()


def test_compiled_models_name_them_too():
    """In one graph, in a process of its own: the shape checks of these tests do not compile."""
    code = """
import logging, torch, adapters as ad
from tests.toy import Reader, trained
logging.basicConfig(format="%(name)s: %(message)s")
model = Reader()
handle = ad.attach(model, ad.LoRAConfig(r=2, targets="first|second"))
trained(model, torch.compile(model, backend="eager", fullgraph=True))
assert handle.sites["first"].called and not handle.sites["second"].called
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("adapters: ")]
    assert line.endswith(
        "without a gradient in the first optimizer step; they train only if something calls them: second"
    )


# -- layers= -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "layers",
    [1, [1], (1,), range(1, 2), {1}, frozenset({1}), (n for n in [1]), np.array([1]), torch.tensor([1]), {1: "x"}],
    ids=lambda layers: type(layers).__name__,
)
def test_any_iterable_of_ints_names_layers(layers, tmp_path):
    """Stored as ints, saved, loaded; a generator is read once and works more than once."""
    cfg = ad.LoRAConfig(r=2, layers=layers)
    assert cfg.layers in (1, (1,))
    assert type(cfg.layers) is int or type(cfg.layers[0]) is int
    for _ in range(2):
        model = toy()
        ad.attach(model, cfg)
        assert {n.split(".")[1] for n in ad.attachment(model).sites} == {"1"}
    ad.save(model, tmp_path / "a")
    loaded = ad.load(toy(), tmp_path / "a")
    assert loaded.cfg == cfg


def test_targets_may_be_any_iterable_of_regexes(tmp_path):
    for targets in (
        ["q_proj", "v_proj"],
        {"v_proj", "q_proj"},
        (t for t in ("q_proj", "v_proj")),
        {"q_proj": 0, "v_proj": 1},
    ):
        cfg = ad.LoRAConfig(r=2, targets=targets)
        assert cfg.targets == ("q_proj", "v_proj")
        model = toy()
        ad.attach(model, cfg)
        ad.save(model, tmp_path / "a")
        assert len(ad.load(toy(), tmp_path / "a").sites) == 4


@pytest.mark.parametrize("layers", ["01", b"01", 1.0, [0.5], [True], True, [-1], -1, ["0"], [None], torch.ones(2)])
def test_what_is_no_layer_index_is_refused_where_it_is_written(layers):
    with pytest.raises(ad.AdapterError, match=r"LoRAConfig: layers: not layer indices, got .*; expected integers >= 0"):
        ad.LoRAConfig(layers=layers)


# -- layers too small --------------------------------------------------------------------------------------------------
def test_errors_for_small_layers_name_the_layer_and_the_value_typed():
    model = nn.ModuleDict({"big": nn.Linear(64, 64), "tiny": nn.Linear(3, 2), "odd": nn.Linear(64, 10)})
    cases = (
        (
            ad.AntiPaSTORotConfig(r=64, targets="big|tiny"),
            r"layer tiny: .*2 outputs and 3 inputs, got 64; expected 4 <= r <= 2, a multiple of 4",
        ),
        (
            ad.HRAConfig(r=8, targets="one"),
            r"layer one: HRAConfig: .*1 outputs and 9 inputs, got 8; expected 2 <= r <= 1, a multiple of 2",
        ),
        (
            ad.RoadConfig(group_size=32, targets="odd"),
            r"layer odd: RoadConfig: group_size .*got 32; expected an even divisor of the layer's 10 outputs",
        ),
    )
    for cfg, message in cases:
        module = nn.ModuleDict({"one": nn.Linear(9, 1)}) if cfg.targets == "one" else model
        for call in (ad.attach, ad.parameter_count):
            with pytest.raises(ad.AdapterError, match=message):
                call(module, cfg)
        assert not any("lora" in n for n, _ in module.named_parameters())
