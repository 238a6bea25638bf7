"""Layers out of the ordinary: GPT-2's Conv1D, layers smaller than the rank, weights that are not in memory."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
import transformers as hf
from torch import nn
from transformers.pytorch_utils import Conv1D

import adapters as ad
from adapters._contract import Calibration
from adapters._weights import dense_weight
from tests import zoo
from tests.toy import HAS_SITES, generic, small, tokens, toy

logging.getLogger("adapters").setLevel(logging.ERROR)
IDS = torch.randint(3, zoo.VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(2))


# -- Conv1D ------------------------------------------------------------------------------------------------------------
def gpt2(dtype=torch.float64):
    """Weights large enough for the adapters' changes to show."""
    model = zoo.build("gpt2").to(dtype)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.mul_(5 if "c_" in name else 1)
    return model


def with_linear_layers(model):
    """The same function from nn.Linear, whose weight is Conv1D's transposed."""
    twin = copy.deepcopy(model)
    for name, layer in model.named_modules():
        if isinstance(layer, Conv1D):
            i, o = layer.weight.shape
            linear = nn.Linear(i, o).to(layer.weight)
            linear.weight.data.copy_(layer.weight.data.T)
            linear.bias.data.copy_(layer.bias.data)
            twin.set_submodule(name, linear)
    return twin


@pytest.mark.parametrize("name", HAS_SITES)
def test_a_conv1d_is_adapted_as_the_linear_layer_it_is(name, tmp_path):
    """Counts, identity, outputs, gradients and checkpoints: what nn.Linear with the transposed weight gives."""
    cfg = small(name, targets="all", dtype="float64")
    batches = [IDS] if ad.VARIANTS[name].calibration(cfg) is Calibration.required else None
    results = []
    for model in (gpt2(), with_linear_layers(gpt2())):
        base = model(IDS).logits.detach()
        handle = ad.attach(model, cfg, seed=0, calibration=batches)
        assert sum(p.numel() for p in handle.trainable().values()) == ad.parameter_count(gpt2("meta"), cfg)
        assert handle.variant.identity_atol or torch.equal(model(IDS).logits, base)
        generic(handle)
        logits = model(IDS).logits
        logits.square().mean().backward()
        with torch.no_grad():
            cached = model(IDS).logits
        results.append((logits.detach(), cached, {n: p.grad for n, p in handle.trainable().items()}))
        ad.save(model, tmp_path / "a")
        ad.detach(model)
        assert torch.equal(model(IDS).logits, base)
        ad.load(model, tmp_path / "a")
        assert torch.equal(model(IDS).logits, logits)
    (logits, cached, grads), (expected, expected_cached, expected_grads) = results
    assert torch.allclose(logits, expected, atol=1e-9)
    assert torch.allclose(cached, expected_cached, atol=1e-9)
    assert len(grads) >= 8
    for n, g in grads.items():
        assert torch.allclose(g, expected_grads[n], atol=1e-8 * float(expected_grads[n].abs().max().clamp_min(1))), n


def test_a_conv1d_called_by_keyword():
    layer = nn.ModuleDict({"c_attn": Conv1D(6, 4)})
    x = torch.randn(2, 4)
    for name in ("lora", "ia3_ff"):
        with ad.attach(layer, small(name, targets="c_attn")) as handle:
            generic(handle)
            assert torch.equal(layer["c_attn"](x=x), layer["c_attn"](x))


@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "ia3_ff", "delora", "pissa", "hira", "miss", "gralora"])
def test_peft_computes_the_same_on_conv1d(name, tmp_path):
    """DeLoRA and MiSS, which PEFT has for nn.Linear only, go out as LoRA; HRA, RoAd and SHiRA, not low-rank, do not."""
    import peft

    cfg = small(name, targets="mlp" if name == "ia3_ff" else "attn")
    model = gpt2(torch.float32)
    generic(ad.attach(model, cfg, seed=0))
    ad.export_peft(model, tmp_path)
    with torch.no_grad():
        expected = model(IDS).logits
        theirs = peft.PeftModel.from_pretrained(gpt2(torch.float32), tmp_path).eval()(IDS).logits
        again = gpt2(torch.float32)
        ad.import_peft(again, tmp_path)
        assert torch.allclose(theirs, expected, atol=2e-5)
        assert torch.allclose(again(IDS).logits, expected, atol=2e-5)
    for other in ("hra", "road", "shira"):
        model = gpt2()
        ad.attach(model, small(other, targets="attn"))
        with pytest.raises(ad.AdapterError, match=f"{other}: .*cannot be exported"):
            ad.export_peft(model, tmp_path / "no")


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_gpt2(bits, tmp_path):
    """transformers turns Conv1D into bitsandbytes layers: their dense weight is Conv1D's, transposed and rounded."""
    pytest.importorskip("bitsandbytes")
    sizes = zoo.GPT2 | {"n_embd": 64, "n_layer": 1}
    model = hf.GPT2LMHeadModel(hf.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2))
    model.save_pretrained(tmp_path)
    options = hf.BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    quantized = hf.AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=options, device_map="cpu")
    base = quantized(IDS).logits.detach()
    with ad.attach(quantized, ad.PiSSAConfig(r=4, targets="attn"), seed=0) as handle:
        for name, site in handle.sites.items():
            W = model.get_submodule(name).weight.detach().T
            assert (dense_weight(site.layer) - W).norm() < (0.15 if bits == 4 else 0.01) * W.norm()
        assert torch.equal(quantized(IDS).logits, base)
        generic(handle)
        assert not torch.equal(quantized(IDS).logits, base)


# -- ranks clamped to a small layer ------------------------------------------------------------------------------------
def narrow():
    torch.manual_seed(0)
    return nn.ModuleDict({"wide": nn.Linear(64, 64), "narrow": nn.Linear(64, 4)})


@pytest.mark.parametrize(
    ("cfg", "s"),
    [
        (ad.LoRAConfig(r=32, alpha=32, targets="all"), 1),
        (ad.LoRAConfig(r=32, alpha=64, targets="all"), 2),
        (ad.LoRAConfig(r=16, alpha=64, scaling="rslora", targets="all"), 16),
        (ad.LoRAConfig(r=16, alpha=None, scaling="rslora", targets="all"), 4),
        (ad.LoRAConfig(r=24, alpha=None, targets="all"), 1),
        (ad.DoRAConfig(r=32, alpha=48, targets="all"), 1.5),
        (ad.PiSSAConfig(r=32, targets="all"), 1),
        (ad.LoRAXSConfig(r=32, targets="all"), 1),
        (ad.EVAConfig(r=32, alpha=64, targets="all"), 2),
    ],
    ids=lambda p: f"{type(p).__name__}-{p.scaling}-{p.alpha}" if hasattr(p, "r") else "",
)
def test_a_clamped_rank_keeps_the_scale(cfg, s, tmp_path, caplog):
    """s is the config's on both layers, after load too; a warning and `clamped` say which layer took less."""

    class Both(nn.ModuleDict):
        def forward(self, x):
            return self["wide"](x), self["narrow"](x)

    model = Both(narrow())
    x = torch.randn(40, 64)
    batches = [x] if isinstance(cfg, ad.EVAConfig) else None
    with caplog.at_level(logging.WARNING, "adapters"):
        handle = ad.attach(model, cfg, seed=0, calibration=batches)
    assert [r.getMessage() for r in caplog.records] == [
        f"r={cfg.r} is clamped on 1 layers, with s as configured: {{'narrow': 4}}"
    ]
    assert handle.clamped == {"narrow": 4}
    assert {n: s.scale for n, s in handle.sites.items()} == pytest.approx({"wide": s, "narrow": s}, rel=1e-12)
    generic(handle)
    expected, cfgs = [y.detach() for y in model(x)], {n: s.cfg for n, s in handle.sites.items()}
    ad.save(model, tmp_path / "a")
    ad.detach(model)
    caplog.clear()
    loaded = ad.load(model, tmp_path / "a")
    assert not caplog.records  # said when it was attached
    assert {n: s.cfg for n, s in loaded.sites.items()} == cfgs
    assert all(torch.equal(y, e) for y, e in zip(model(x), expected, strict=True))


@pytest.mark.parametrize("name", ["lora", "dora", "pissa", "delora", "hra"])
def test_a_clamped_layer_is_exported_exactly(name, tmp_path):
    """PEFT's rank_pattern and alpha_pattern carry what the layer has."""
    import peft

    def base():
        return zoo.build("llama").double()  # k and v: 16 → 8

    cfg = ad.VARIANTS[name].Config(r=12, targets="attn", dtype="float64")
    model = base()
    handle = ad.attach(model, cfg, seed=0)
    assert len(handle.clamped) == 4
    generic(handle)
    ad.export_peft(model, tmp_path)
    with torch.no_grad():
        expected = model(IDS).logits
        theirs = peft.PeftModel.from_pretrained(base(), tmp_path).double().eval()(IDS).logits
        again = base()
        assert not ad.import_peft(again, tmp_path).clamped
        for logits in (theirs, again(IDS).logits):
            assert torch.allclose(logits, expected, atol=1e-5 * float(expected.abs().max()))


# -- weights that are not in memory ------------------------------------------------------------------------------------
REFUSED = r"layers\.0\.self_attn\.q_proj: {}.*Load the whole model into memory first"
CONFIGS = [ad.LoRAConfig(r=2), ad.PiSSAConfig(r=2), ad.EVAConfig(r=2)]


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda c: type(c).__name__)
def test_models_on_the_meta_device_are_refused(cfg, tmp_path):
    with torch.device("meta"):
        model = zoo.BUILDERS["llama"]()
    assert ad.parameter_count(model, cfg) > 0
    with pytest.raises(ad.AdapterError, match=REFUSED.format("this layer is on the meta device")):
        ad.attach(model, cfg, calibration=[IDS])
    with pytest.raises(ad.AdapterError, match="is on the meta device"):
        ad.attach(model, ad.FullConfig())
    whole = zoo.build("llama")
    ad.attach(whole, cfg, calibration=[IDS])
    ad.save(whole, tmp_path / "a")
    with pytest.raises(ad.AdapterError, match="is on the meta device"):
        ad.load(model, tmp_path / "a")
    assert not any("lora" in n for n, _ in model.named_parameters())


def test_models_that_accelerate_offloads_are_refused(tmp_path):
    """Before attach by name; after it in the next forward pass and in save, where logits used to be garbage."""
    accelerate = pytest.importorskip("accelerate")
    for cfg in CONFIGS:
        model = zoo.build("llama")
        accelerate.cpu_offload(model, execution_device="cpu")
        with pytest.raises(ad.AdapterError, match=REFUSED.format("accelerate offloads this layer")):
            ad.attach(model, cfg, calibration=[IDS])
        with torch.no_grad():
            assert torch.allclose(model(IDS).logits, zoo.build("llama")(IDS).logits)

    for name in ("lora", "ia3_ff"):
        model = zoo.build("llama")
        generic(ad.attach(model, small(name), seed=0))
        accelerate.cpu_offload(model, execution_device="cpu")
        with pytest.raises(ad.AdapterError, match=f"{name}: a layer was offloaded after attach"):
            model(IDS)
        with pytest.raises(ad.AdapterError, match="accelerate offloads this layer"):
            ad.save(model, tmp_path / "a")
        assert not (tmp_path / "a").exists()


def test_the_whole_model_may_be_moved_between_calls():
    """accelerate's hook on the model, which loads all of it for a call, is no offloading of single layers."""
    accelerate = pytest.importorskip("accelerate")
    model = toy()
    generic(ad.attach(model, ad.LoRAConfig(r=2), seed=0))
    expected = model(tokens())
    model, _ = accelerate.cpu_offload_with_hook(model, execution_device="cpu")
    assert torch.equal(model(tokens()), expected)
