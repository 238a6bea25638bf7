"""Checkpoint format v1: what is saved comes back bit for bit, everything else is one AdapterError and no change."""

from __future__ import annotations

import copy
import json
import logging
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import optimizer as optimizers

import adapters as ad
from adapters import _bases
from adapters._format import read_checkpoint, tensors_sha256
from adapters._hooks import Restored
from adapters._patterns import harmless
from tests.toy import HAS_SITES, IDS, SETTINGS, attached, generic, record_of, small, tokens, toy

each_setting = pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=IDS)
LAYER = "layers.1.v_proj"  # a target of every variant that reads or writes v
logging.getLogger("adapters").setLevel(logging.ERROR)


@torch.no_grad()
def logits(model):
    return model(tokens())


def anatomy(model):
    """Everything by which a failed load could show; see `unchanged`."""
    modules = {n: (sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()}
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    return modules, flags, tensors_sha256(model.state_dict()), set(optimizers._global_optimizer_post_hooks)


def unchanged(model, before):
    """Nothing is other than `anatomy` found it; hooks of models that other tests dropped may be gone meanwhile."""
    now = anatomy(model)
    return now[:3] == before[:3] and now[3] <= before[3]


def refused(path, message, model=None, **how):
    """One line that names the file, on a model that is as it was."""
    model = toy() if model is None else model
    before = anatomy(model)
    with pytest.raises(ad.AdapterError, match=message) as caught:
        ad.load(model, path, **how)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert unchanged(model, before)


def saved(path, name, *, model=None, basis=False, **settings):
    """A toy adapter in general position, saved; its logits."""
    model = toy() if model is None else model
    with attached(model, name, **settings) as handle:
        generic(handle)
        ad.save(model, path, basis=basis)
        return logits(model)


AS_JSON = ("config", "layers", "whole_basis")


def rewrite(path, tensors=None, *, older=False, **changes):
    """Another file of the same name, whose hash fits its tensors; older: with several metadata keys, as once written.

    changes: JSON texts of config, layers and whole_basis (not necessarily sound); strings; None leaves an entry out.
    """
    tensors = load_file(path) if tensors is None else tensors
    record = record_of(path) | {"format": "adapters", "tensors_sha256": tensors_sha256(tensors)}
    texts = {k: json.dumps(v) if k in AS_JSON else v for k, v in record.items()} | changes
    texts = {k: v for k, v in texts.items() if v is not None}
    if older:
        texts.pop("tensors_version")
        save_file(tensors, path, metadata=texts)
        return
    name = texts.pop("format", "something")
    entries = (f"{json.dumps(k)}: {v if k in AS_JSON else json.dumps(v)}" for k, v in texts.items())
    save_file(tensors, path, metadata={name: "{" + ", ".join(entries) + "}"})


# -- the same ----------------------------------------------------------------------------------------------------------
@each_setting
@pytest.mark.parametrize("basis", [False, True], ids=["", "basis"])
def test_logits_come_back_bit_for_bit(name, settings, basis, tmp_path, monkeypatch):
    """fp32 and bf16; with basis=True without a single decomposition; saved again it is the same file."""
    for dtype in (torch.float32, torch.bfloat16):
        a, b = tmp_path / "a", tmp_path / "b"
        expected = saved(a, name, model=toy(dtype), basis=basis, **settings)
        model = toy(dtype)
        with monkeypatch.context() as patch:
            if basis:
                patch.setattr(torch.linalg, "eigh", lambda *_: pytest.fail("a decomposition"))
            handle = ad.load(model, a)
        assert torch.equal(logits(model), expected)
        assert handle.variant.name == name
        ad.save(model, b, basis=basis)
        assert a.read_bytes() == b.read_bytes()
        assert read_checkpoint(a).whole_basis or not basis


def test_the_adapter_is_saved_as_it_is_now(tmp_path):
    """`coeff` set while attached, parameters cast with the model, a dtype of its own."""
    path = tmp_path / "a"
    model = toy()
    handle = attached(model, "antipasto_dplr")
    generic(handle)
    for coeff in (0.5, 0.0, -1.0):
        handle.coeff = coeff
        ad.save(model, path)
        other = toy()
        assert ad.load(other, path).coeff == coeff
        assert torch.equal(logits(other), logits(model))
    ad.detach(model)

    generic(attached(model, "hra"))
    model.double()
    ad.save(model, path)
    other = toy().double()
    assert ad.load(other, path).cfg.dtype == "float64"
    assert torch.equal(logits(other), logits(model))

    for dtype in ("bfloat16", "float16", "float64"):
        expected = saved(path, "lora", dtype=dtype)
        other = toy()
        assert {p.dtype for p in ad.load(other, path).trainable().values()} == {getattr(torch, dtype)}
        assert torch.equal(logits(other), expected)


SAVE = """
import sys, adapters as ad
from tests.toy import attached, generic, toy
for name in ("lora", "antipasto_dplr", "full"):
    model = toy()
    generic(attached(model, name))
    ad.save(model, f"{sys.argv[1]}/{name}")
"""


def test_equal_adapters_are_equal_bytes(tmp_path):
    """Saved twice here and once in another process, with another hash seed."""
    command = [sys.executable, "-c", SAVE, str(tmp_path)]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}, check=True)
    for name in ("lora", "antipasto_dplr", "full"):
        for n in range(3):
            saved(tmp_path / f"{n}", name)
            assert (tmp_path / f"{n}").read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize("name", HAS_SITES)
def test_files_from_before_load(name, tmp_path):
    """Several metadata keys, in any order; DoRA's magnitudes, then relative to the row norms, are converted."""
    path, model = tmp_path / "a", toy()
    expected = saved(path, name)
    tensors = load_file(path)
    if name == "dora":
        for key in (k for k in tensors if k.endswith("lora_delta")):
            tensors[key] /= model.get_submodule(key.rpartition(".")[0]).weight.detach().norm(dim=1)
    rewrite(path, tensors, older=True)
    ad.load(model, path)
    if name != "dora":
        assert torch.equal(logits(model), expected)
        return
    assert (logits(model) - expected).norm() < 1e-6 * expected.norm()
    ad.save(model, path)
    assert record_of(path)["tensors_version"] == 2
    assert torch.equal(logits(ad.load(toy(), path).model), logits(model))
    saved(path, "dora", dtype="bfloat16")
    rewrite(path, older=True)
    refused(path, "dora: lora_delta of version 1, relative to the row norms, cannot be converted exactly")


def test_threads_raise_no_false_alarm(tmp_path):
    """Saved with one thread and loaded with two, and the other way round: the same bits, where BLAS shares work."""

    def make():
        torch.manual_seed(0)
        return nn.ModuleDict({"q_proj": nn.Linear(384, 512), "v_proj": nn.Linear(384, 256)})

    threads = torch.get_num_threads()
    try:
        for name in ("antipasto", "antipasto_dplr", "antipasto_rot", "lora_xs", "pissa", "dora", "hra", "delora"):
            for first, second in ((1, 2), (2, 1)):
                torch.set_num_threads(first)
                model = make()
                handle = ad.attach(model, small(name, **({} if name == "delora" else {"r": 128})), seed=0)
                generic(handle)
                ad.save(model, tmp_path / "a")
                bases = {f"{n}.{k}": b.clone() for n, s in handle.sites.items() for k, b in s.layer.named_buffers()}
                torch.set_num_threads(second)
                other = make()
                loaded = ad.load(other, tmp_path / "a")
                for n, site in loaded.sites.items():
                    for k, b in site.layer.named_buffers():
                        assert torch.equal(b, bases[f"{n}.{k}"]), (name, n, k)
    finally:
        torch.set_num_threads(threads)


def test_small_enough(tmp_path):
    """antipasto, r=256, on Qwen3-0.6B's 56 layers: 14,336 parameters in at most 120 KB.

    Names, shapes, dtype and trainable numbers are the real ones; weights and bases are stand-ins, whose values enter
    the file as hashes and probes of fixed length only.
    """
    shapes = {"q_proj": (2048, 1024), "v_proj": (1024, 1024)}
    generator = torch.Generator().manual_seed(0)
    shared = {n: nn.Parameter(torch.randn(s, generator=generator).bfloat16()) for n, s in shapes.items()}
    basis = {
        n: {
            "basis_U": torch.randn(o, 256, generator=generator) / o**0.5,
            "basis_S": torch.rand(256, generator=generator),
            "basis_Vh": torch.randn(256, i, generator=generator) / i**0.5,
        }
        for n, (o, i) in shapes.items()
    }
    model = nn.Module()
    model.model = nn.Module()
    model.model.layers = nn.ModuleList()
    for _ in range(28):
        block = nn.Module()
        block.self_attn = nn.Module()
        for n, (o, i) in shapes.items():
            layer = nn.Linear(i, o, bias=False, device="meta")
            layer.weight = shared[n]
            setattr(block.self_attn, n, layer)
        model.model.layers.append(block)
    cfg = ad.AntiPaSTOConfig()
    names = [f"model.layers.{k}.self_attn.{n}" for k in range(28) for n in shapes]
    restored = Restored(dict.fromkeys(names, cfg), {n: basis[n.rpartition(".")[2]] for n in names}, None)
    handle = ad.attach(model, cfg, seed=0, _restored=restored)
    generic(handle)
    assert sum(p.numel() for p in handle.trainable().values()) == 14_336
    size = ad.save(model, tmp_path / "a")
    print(f"\n14,336 parameters in {size:,} bytes")
    assert size == (tmp_path / "a").stat().st_size <= 120_000


# -- another base ------------------------------------------------------------------------------------------------------
@each_setting
def test_one_changed_element_of_one_weight_is_refused(name, settings, tmp_path, caplog):
    """By the least step of fp32; the message names layer and remedy. strict=False is for bases that need no weight."""
    path = tmp_path / "a"
    expected = saved(path, name, **settings)
    layer = next(reversed(read_checkpoint(path).layers))
    other = toy()
    with torch.no_grad():
        w = other.get_submodule(layer).weight
        w[3, 5] = torch.nextafter(w[3, 5], w[3, 5] + 1)
    variant = ad.VARIANTS[name]
    has_basis = variant.basis is not ad.Variant.basis and variant.basis_reads_weight
    whole = read_checkpoint(path).whole_basis
    remedy = "load it there" if has_basis and not whole else "strict=False"
    message = f"the base weight of {re.escape(layer)} is not the one.*{remedy}"
    refused(path, message, other)
    if has_basis and not whole:
        refused(path, message, other, strict=False)
        saved(path, name, basis=True, **settings)
        refused(path, f"the base weight of {re.escape(layer)} is not the one.*strict=False", other)
    with caplog.at_level(logging.WARNING, "adapters"):
        ad.load(other, path, strict=False)
    assert "base weights differ in 1 of" in caplog.text
    assert (logits(other) - expected).norm() < 1e-5 * expected.norm()


def test_another_precision_is_refused_or_the_same(tmp_path):
    """bf16 weights and their exact fp32 copy are one base; a basis was rounded with it, and says so."""
    path = tmp_path / "a"
    saved(path, "lora", model=toy(torch.bfloat16))
    ad.load(toy(torch.bfloat16).float(), path)
    refused(path, f"the base weight of {re.escape('layers.0.q_proj')} is not the one", toy())
    saved(path, "antipasto", model=toy(torch.bfloat16))
    refused(
        path,
        r"layer layers\.0\.q_proj computes another.*Load the model in bfloat16.*Or save with basis=True",
        toy(torch.bfloat16).float(),
    )
    saved(path, "lora")
    refused(path, "the base weight of", toy(torch.bfloat16))


def test_another_quantization_is_refused(tmp_path):
    """Plain, 4-bit (nf4, fp4) and 8-bit copies of the same weights are four bases; LoRA moves with strict=False."""
    bnb = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    W = torch.randn(64, 64)

    def plain():
        layer = nn.Linear(64, 64, bias=False)
        layer.weight.data = W.clone()
        return nn.ModuleDict({"q_proj": layer})

    def quantized(kind):
        if kind == "int8":
            layer = bnb.nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False)
            layer.weight = bnb.nn.Int8Params(W.clone(), requires_grad=False, has_fp16_weights=False)
        else:
            layer = bnb.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type=kind)
            layer.weight = bnb.nn.Params4bit(W.clone(), requires_grad=False, quant_type=kind)
        return nn.ModuleDict({"q_proj": layer.to("cpu")})

    makers = {"plain": plain} | {k: (lambda k=k: quantized(k)) for k in ("nf4", "fp4", "int8")}
    path = tmp_path / "a"
    for name in ("lora", "antipasto"):
        for trained, make in makers.items():
            with ad.attach(model := make(), small(name), seed=0) as handle:
                generic(handle)
                ad.save(model, path)
            for kind, make_other in makers.items():
                model = make_other()
                if kind == trained:
                    ad.load(model, path)
                    continue
                with pytest.raises(ad.AdapterError, match="the base weight of q_proj is not the one"):
                    ad.load(model, path)
                if name == "lora":
                    ad.load(model, path, strict=False)


def orthogonal(model):
    """Every weight's singular values are equal: its singular vectors are any orthonormal set."""
    with torch.no_grad():
        for layer in model.layers:
            for linear in (layer.q_proj, layer.v_proj):
                U, _, Vh = torch.linalg.svd(linear.weight, full_matrices=False)
                linear.weight.copy_(U @ Vh)
    return model


def rotate_eigenvectors(patch, turn):
    """Another machine's eigendecomposition: eigenvectors of equal eigenvalues come out as another orthonormal set."""
    original = torch.linalg.eigh

    def eigh(C):
        values, V = original(C)
        return values, V @ turn(len(values))

    patch.setattr(torch.linalg, "eigh", eigh)


def rotation(n):
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n)))[0]


def test_a_degenerate_subspace_that_comes_out_rotated(tmp_path, monkeypatch):
    """Refused where the function is another one, accepted where it is the same; never a silent change."""
    path, whole = tmp_path / "a", tmp_path / "whole"
    for name in ("antipasto", "antipasto_dplr", "antipasto_rot", "antipasto_arrow", "lora_xs", "pissa"):
        saved(path, name, model=orthogonal(toy()))
        expected = saved(whole, name, model=orthogonal(toy()), basis=True)
        with monkeypatch.context() as patch:
            rotate_eigenvectors(patch, rotation)
            message = r"layer layers\.0\.q_proj computes another function.*relative error .*basis=True"
            refused(path, message, orthogonal(toy()))
            model = orthogonal(toy())
            ad.load(model, whole)
            assert torch.equal(logits(model), expected)
    # Equal gains on the whole space are the same function in any basis of it.
    model = orthogonal(toy())
    with attached(model, "antipasto", r=16) as handle:
        for p in handle.trainable().values():
            p.data.fill_(0.7)
        ad.save(model, path)
        expected = logits(model)
    with monkeypatch.context() as patch:
        rotate_eigenvectors(patch, rotation)
        ad.load(model, path)
        assert not torch.equal(logits(model), expected)  # in the last digits
        assert (logits(model) - expected).norm() < 1e-5 * expected.norm()


def test_signs_that_come_out_flipped(tmp_path, monkeypatch):
    """Gains do not see the signs of singular vectors, a core that mixes them does: the probes tell."""
    path = tmp_path / "a"
    sign = lambda V: torch.where(torch.arange(V.shape[1]) % 2 == 0, 1.0, -1.0).to(V.dtype)
    expected = saved(path, "antipasto")
    with monkeypatch.context() as patch:
        patch.setattr(_bases, "_signs", sign)
        model = toy()
        ad.load(model, path)
        assert (logits(model) - expected).norm() < 1e-6 * expected.norm()
    for name in ("lora_xs", "antipasto_dplr"):
        saved(path, name)
        with monkeypatch.context() as patch:
            patch.setattr(_bases, "_signs", sign)
            refused(path, r"layer layers\.\d\.._proj computes another function")


def test_a_small_wrong_part_is_enough(tmp_path):
    """One gain of eight, off by 1e-3, on one layer: the probes see it although every hash fits."""
    path = tmp_path / "a"
    saved(path, "antipasto")
    tensors = load_file(path)
    tensors["layers.1.q_proj.lora_g"][7] += 1e-3
    rewrite(path, tensors)
    refused(path, r"layer layers\.1\.q_proj computes another function")


# -- files that are not what they should be ----------------------------------------------------------------------------
def test_files_that_are_no_checkpoint(tmp_path):
    """Pickles, archives, folders, pipes, other libraries' files, headers that claim gigabytes."""
    path = tmp_path / "a"
    refused(path, "no such file")
    refused(tmp_path, "not a regular file")
    os.mkfifo(path)
    refused(path, "not a regular file")
    path.unlink()
    flag = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(flag),)

    torch.save({"x": Trap()}, path)
    refused(path, "not a safetensors file|not a readable safetensors")
    torch.save({"x": Trap()}, path, _use_new_zipfile_serialization=False)
    refused(path, "not a safetensors file|not a readable safetensors")
    assert not flag.exists()
    for content in (b"", b"\0", b"\0" * 8, b"PK\x03\x04" + b"\0" * 99, os.urandom(5000), b"\xff" * 64):
        path.write_bytes(content)
        refused(path, "not a safetensors file|not a readable safetensors")
    for header in (1 << 26, 99_999_999, 1 << 40, (1 << 64) - 1):
        path.write_bytes(struct.pack("<Q", header) + b"{" * 1000)
        refused(path, r"not a safetensors file \(a header of \d+ bytes")
    save_file({"x": torch.zeros(3)}, path)
    refused(path, "not an adapter checkpoint of this library, got None; expected 'adapters'. .*import_peft")
    save_file({"x": torch.zeros(3)}, path, metadata={"format": "pt"})
    refused(path, "not an adapter checkpoint of this library, got 'pt'")


def test_every_truncation_and_every_flipped_bit(tmp_path):
    """Of a whole small file: refused, or (bits of the header's white space, say) the same tensors and function."""
    path = tmp_path / "a"
    expected = saved(path, "antipasto", targets=r"layers\.0\.v_proj", r=4)
    raw, model = path.read_bytes(), toy()
    before, accepted = anatomy(model), []
    for n in [*range(0, len(raw), 7), len(raw) - 1]:
        path.write_bytes(raw[:n])
        with pytest.raises(ad.AdapterError):
            ad.load(model, path)
    for n in range(0, 8 * len(raw), 5):
        changed = bytearray(raw)
        changed[n // 8] ^= 1 << n % 8
        path.write_bytes(changed)
        try:
            with ad.load(model, path):
                assert torch.equal(logits(model), expected), n
                accepted.append(n)
        except ad.AdapterError:
            pass
        assert unchanged(model, before)
    assert len(accepted) < 0.05 * 8 * len(raw)  # digits of a probe below the tolerance, letters of the model's name


def test_tensors_that_do_not_fit(tmp_path):
    """With hashes that fit the wrong tensors: names, shapes, dtypes, numbers."""
    path = tmp_path / "a"

    def broken(name, message, change, **settings):
        saved(path, name, **settings)
        tensors = load_file(path)
        change(tensors)
        rewrite(path, tensors)
        for strict in (True, False):
            refused(path, message, strict=strict)

    A, g, U = (f"{LAYER}.{k}" for k in ("lora_A", "lora_g", "basis_U"))
    broken("lora", f"missing tensor {re.escape(A)}", lambda t: t.pop(A))
    broken("lora", "unknown tensor lora_A", lambda t: t.update(lora_A=t[A].clone()))
    broken("lora", "unknown tensor layers.1.v_proj.basis_U", lambda t: t.update({U: torch.ones(3)}))
    broken(
        "lora",
        r"wrong shape of .*lora_A, got \(16, 8\); expected \(8, 16\)",
        lambda t: t.update({A: t[A].T.contiguous()}),
    )
    broken(
        "lora",
        "wrong dtype of .*lora_A, got torch.float64; expected torch.float32",
        lambda t: t.update({A: t[A].double()}),
    )
    broken("lora", "wrong dtype of .*lora_A, got torch.int64", lambda t: t.update({A: t[A].long()}))
    for dtype in (torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint16):
        broken("lora", "wrong dtype of .*lora_A, got torch", lambda t, d=dtype: t.update({A: t[A].to(d)}))
    for bad in (float("nan"), float("inf"), -float("inf")):
        broken("lora", f"NaN or Inf in {re.escape(A)}", lambda t, x=bad: t[A][0].fill_(x))
    broken("antipasto", r"wrong shape of .*lora_g, got \(9,\)", lambda t: t.update({g: torch.ones(9)}))
    broken("antipasto", r"wrong shape of .*lora_g, got \(\)", lambda t: t.update({g: torch.tensor(1.0)}))
    broken("antipasto", "unknown tensor .*basis_U", lambda t: t.update({U: torch.ones(16, 8)}))
    broken(
        "antipasto", "unknown tensor nowhere.basis_U", lambda t: t.update({"nowhere.basis_U": t[U].clone()}), basis=True
    )
    broken("antipasto", "missing tensor .*basis_U", lambda t: t.pop(U), basis=True)
    broken(
        "antipasto",
        "unknown tensor .*basis_x|missing tensor .*basis_x",
        lambda t: t.update({f"{LAYER}.basis_x": torch.ones(3)}),
        basis=True,
    )
    broken("antipasto", "does not fit|another function", lambda t: t.update({U: t[U][:, :5].contiguous()}), basis=True)
    broken("antipasto", "another function", lambda t: t.update({f"{LAYER}.basis_S": torch.ones(1)}), basis=True)
    broken("antipasto", "another function", lambda t: t[U].mul_(1.001), basis=True)
    broken("antipasto_corda", "NaN or Inf in .*basis_U", lambda t: t[U].fill_(float("nan")))


def nested(depth):
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("older", [False, True])
def test_metadata_that_is_not_the_schema(older, tmp_path):
    """Every entry missing or malformed, future versions, numbers that overflow, regexes that would not end."""
    path = tmp_path / "a"
    saved(path, "antipasto")
    sound = path.read_bytes()
    config, layers = (record_of(path)[k] for k in ("config", "layers"))

    def layer(**changes):
        changed = copy.deepcopy(layers)
        changed["layers.0.q_proj"] |= changes
        changed["layers.0.q_proj"] = {k: v for k, v in changed["layers.0.q_proj"].items() if v != "gone"}
        return {"layers": json.dumps(changed)}

    def wrong(message, **metadata):
        path.write_bytes(sound)
        rewrite(path, older=older, **metadata)
        started = time.monotonic()
        for strict in (True, False):
            refused(path, message, strict=strict)
        assert time.monotonic() - started < 5

    wrong("not an adapter checkpoint", format=None)
    wrong("unknown format version, got '2'; expected '1'. Update the library.", format_version="2")
    wrong("unknown format version, got None", format_version=None)
    wrong("unknown variant, got 'os.system'", variant="os.system")
    wrong("unknown variant, got None", variant=None)
    wrong("bytes do not match", tensors_sha256=None)
    wrong("bytes do not match", tensors_sha256="0" * 64)
    if not older:
        for version in (0, 2, "1", 1.0, True, None, []):
            wrong("unknown version of antipasto's tensors", tensors_version=version if version is not None else {})
    for key in ("config", "layers", "whole_basis", "base_model"):
        wrong("broken metadata", **{key: None})
    for key in ("config", "layers"):
        for text in ("", "{", "null", "[]", "1", '"x"', nested(200_000), '{"r": ' + "9" * 5000 + "}", "\0"):
            wrong("broken metadata|is not in both", **{key: text})
    for change in ({"r": 0}, {"r": 8.0}, {"r": "8"}, {"r": True}, {"r": [8]}, {"suppress_only": None}, {"coeff": "1"},
                   {"coeff": 10**400}, {"coeff": [1.0]}, {"coeff": float("nan")},
                   {"dtype": "int8"}, {"dtype": []}, {"targets": 5}, {"targets": [[]]}, {"targets": []},
                   {"layers": 1.5}, {"layers": "01"}, {"layers": {"a": 1}}, {"roles": "x"}, {"unknown": 1},
                   {"targets": "(a+)+$"}, {"targets": "(.*)*x"}, {"targets": ".*.*.*.*.*x"}, {"targets": "a" * 2000},
                   {"targets": "("}):  # fmt: skip
        wrong("broken metadata|targets|layer", config=json.dumps(config | change))
    wrong("layer layers.0.down_proj is not in both", config=json.dumps(config | {"targets": "all"}))
    wrong("no linear layer matches", config=json.dumps(config | {"targets": "nowhere"}))
    wrong("computes another function", config=json.dumps(config | {"coeff": 0.9}))
    wrong("computes another function|wrong shape", config=json.dumps(config | {"r": 7}))
    wrong("wrong dtype of .*lora_g, got torch.float32", config=json.dumps(config | {"dtype": "float64"}))
    wrong("is not in both", layers="{}")
    probes = layers["layers.0.q_proj"]["probes"]
    for change in ({"norm": "gone"}, {"norm": None}, {"norm": "1"}, {"norm": float("nan")}, {"norm": float("inf")},
                   {"norm": True}, {"norm": 10**400}, {"probes": "gone"}, {"probes": probes[1:]}, {"probes": "x" * 16},
                   {"probes": [*probes[1:], None]}, {"probes": [*probes[1:], 10**400]}, {"probes": {}},
                   {"probes": [*probes[1:], float("nan")]}, {"weight_sha256": 5}, {"weight_sha256": "gone"},
                   {"dtype": 5}, {"dtype": "gone"}, {"casts": "x"}, {"casts": ["int8"]}, {"casts": [[]]},
                   {"casts": ["float16"] * 10}, {"config": []}, {"config": {"r": 0}}, {"config": {"x": 1}},
                   {"config": {"targets": "(a+)+$"}}, {"config": {"dtype": "float64"}}):  # fmt: skip
        wrong("broken metadata", **layer(**change))
    wrong("wrong shape", **layer(config={"r": 7}))
    wrong("is not the one", **layer(weight_sha256="0" * 64))
    wrong("computes another function", **layer(norm=1e290))
    wrong("computes another function", **layer(probes=[2 * probes[0], *probes[1:]]))
    wrong("does not hold its whole basis", whole_basis="true")
    for text in ("True", "1", ""):
        wrong("broken metadata", whole_basis=text)


def test_a_slow_regex_is_saved_as_names(tmp_path):
    """What no reader accepts is not written: the layers that it matched are named instead."""
    path = tmp_path / "a"
    expected = saved(path, "lora", targets=(r"((layers)+\.)+[01]\.q_proj$", "v_proj$"))
    model = toy()
    handle = ad.load(model, path)
    assert torch.equal(logits(model), expected)
    assert handle.cfg.targets == tuple(f"^{re.escape(n)}$" for n in handle.sites)


def test_loading_where_something_is_attached_changes_nothing(tmp_path):
    path, model = tmp_path / "a", toy()
    saved(path, "lora")
    handle = attached(model, "dora")
    generic(handle)
    expected = logits(model)
    with pytest.raises(ad.AdapterError, match="already attached"):
        ad.load(model, path)
    assert ad.attachment(model) is handle
    assert torch.equal(logits(model), expected)


def test_none_and_full(tmp_path):
    """`none` is an empty file; `full` holds every weight once, in the model's own dtype."""
    path, model = tmp_path / "a", toy()
    with ad.attach(model, ad.NoneConfig()):
        ad.save(model, path)
    with ad.load(model, path) as handle:
        assert not handle.trainable()
    base = logits(model)
    with ad.attach(model, ad.FullConfig()) as handle:
        generic(handle)
        expected = logits(model)
        ad.save(model, path)
    with ad.load(model, path):
        assert torch.equal(logits(model), expected)
    assert torch.equal(logits(model), base)
    refused(path, "wrong dtype of .*, got torch.float32; expected torch.bfloat16", toy(torch.bfloat16))
    rewrite(path, load_file(path) | {"x": torch.ones(1)})
    refused(path, "unknown tensor x")


# -- fuzzing -----------------------------------------------------------------------------------------------------------
JUNK = ["null", "true", "-1", "0", "1e308", "1e999", "NaN", "9" * 400, '""', '"\\u0000"', "[]", "{}", '"(a+)+$"',
        "[[]]", nested(3000), '{"r": 1}', '"float16"', '"basis_U"', "0.5", "[0]", '"' + "a" * 3000 + '"']  # fmt: skip


def mutated_json(text, rng):
    """Text of a JSON value in which one node was replaced, dropped or doubled; sometimes no JSON any more."""
    marks = [m.span() for m in re.finditer(r'"[^"]*"|-?\d[\d.e+-]*|true|false|null|[\[\]{}:,]', text)]
    start, end = rng.choice(marks)
    return text[:start] + rng.choice([rng.choice(JUNK), "", 2 * text[start:end]]) + text[end:]


def mutated(raw, rng):
    """Bytes of a file that went wrong somewhere: on the disk, on the way, or on purpose."""
    length = struct.unpack("<Q", raw[:8])[0]
    header, body = raw[8 : 8 + length], raw[8 + length :]
    n, m = sorted(rng.sample(range(len(raw)), 2))
    kind = rng.randrange(12)
    if kind == 0:
        return raw[:n] + bytes([raw[n] ^ 1 << rng.randrange(8)]) + raw[n + 1 :]
    if kind == 1:
        return raw[:n] + rng.randbytes(rng.randrange(1, 9)) + raw[n + 1 :]
    if kind == 2:
        return raw[:n]
    if kind == 3:
        return raw + rng.randbytes(rng.randrange(1, 99))
    if kind == 4:
        return raw[:n] + raw[m:]
    if kind == 5:
        return raw[:m] + raw[n:]
    if kind == 6:
        return struct.pack("<Q", rng.choice([0, 1, length - 1, length + 1, len(raw), 1 << 33, 2**64 - 1])) + raw[8:]
    if kind == 7:
        return raw[:n] + b"\0" * (m - n) + raw[m:]
    if kind == 8:  # one tensor's bytes
        n = rng.randrange(max(1, len(body)))
        body = body[:n] + rng.randbytes(4) + body[n + 4 :]
    elif kind == 9:  # the header: names, dtypes, shapes, offsets
        header = mutated_json(header.decode(), rng).encode()
    else:  # a sound file whose metadata went wrong
        parsed = json.loads(header)
        keys = list(parsed["__metadata__"])
        key = rng.choice(["config", "layers", rng.choice(keys)] if "config" in keys else keys)
        value = parsed["__metadata__"][key]
        parsed["__metadata__"][key] = mutated_json(value, rng) if value[:1] in ("{", "[") else rng.choice(JUNK)
        header = json.dumps(parsed).encode()
    return struct.pack("<Q", len(header)) + header + body


@pytest.mark.parametrize("files", [1000, pytest.param(10_000, marks=pytest.mark.drill)])
def test_mutated_files_are_refused_or_harmless(tmp_path, files):
    """No exception but AdapterError, no change on the model, and whatever loads computes exactly what was saved."""
    path, sources = tmp_path / "a", []
    for name, basis, settings in (
        ("lora", False, {}),
        ("antipasto", False, {}),
        ("antipasto", False, {"calibrated": True}),
        ("antipasto_dplr", True, {}),
        ("antipasto_corda", False, {}),
        ("antipasto_asvd", False, {}),
        ("dora", False, {}),
        ("hra", False, {}),
        ("road", False, {}),
        ("full", False, {}),
    ):
        expected = saved(path, name, basis=basis, **settings)
        sources.append((path.read_bytes(), expected))
        if name == "antipasto_asvd":
            rewrite(path, older=True)
            sources.append((path.read_bytes(), expected))
    model, accepted, slowest = toy(), 0, 0.0
    before = anatomy(model)
    for seed in range(files):
        rng = random.Random(seed)
        raw, expected = sources[seed % len(sources)]
        path.write_bytes(mutated(raw, rng))
        started = time.monotonic()
        try:
            with ad.load(model, path, strict=seed % 3 > 0):
                assert torch.equal(logits(model), expected), seed
                accepted += 1
        except ad.AdapterError:
            pass
        slowest = max(slowest, time.monotonic() - started)
        assert unchanged(model, before), seed
    print(f"\n{files} mutated files: {accepted} loaded unharmed, slowest {slowest:.2f} s")
    assert slowest < 10


# -- writing -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stage", ["fsync", "chmod", "replace"])
def test_a_failing_disk_leaves_the_old_file(stage, tmp_path, monkeypatch):
    """Whatever step fails: one AdapterError, the old bytes, no litter."""
    path, model = tmp_path / "a", toy()
    saved(path, "lora")
    old = path.read_bytes()
    handle = attached(model, "lora")
    generic(handle, seed=9)

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, stage, fail)
        with pytest.raises(ad.AdapterError, match=r"cannot write \(No space left on device\)"):
            ad.save(model, path)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with pytest.raises(ad.AdapterError, match="cannot write"):
        ad.save(model, tmp_path / "nowhere" / "a")
    next(iter(handle.trainable().values())).data[0, 0] = float("nan")
    with pytest.raises(ad.AdapterError, match=r"NaN or Inf in layers\.0\.q_proj\.lora_A"):
        ad.save(model, path)
    assert path.read_bytes() == old


SAVER = """
import sys, torch, adapters as ad
torch.manual_seed(0)
model = torch.nn.ModuleDict({f"l{n}": torch.nn.ModuleDict({"q_proj": torch.nn.Linear(256, 256)}) for n in range(4)})
handle = ad.attach(model, ad.LoRAConfig(r=64), seed=0)
k = 0
while True:
    k += 1
    with torch.no_grad():
        for p in handle.trainable().values():
            p.fill_(k)
    ad.save(model, sys.argv[1])
    if k == 1:
        print("saved", flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path):
    """kill -9 while one process saves over and over: the file is one of its saves, all tensors of the same."""
    path = tmp_path / "a"
    torch.manual_seed(0)
    model = nn.ModuleDict({f"l{n}": nn.ModuleDict({"q_proj": nn.Linear(256, 256)}) for n in range(4)})
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    for delay in (0.0, 0.013, 0.037, 0.071):
        command = [sys.executable, "-c", SAVER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as saver:
            assert saver.stdout.readline() == b"saved\n"
            time.sleep(delay)
            saver.send_signal(signal.SIGKILL)
        with ad.load(model, path) as handle:
            values = {float(x) for p in handle.trainable().values() for x in p.detach().flatten().unique()}
            assert len(values) == 1
            assert values.pop() >= 1


FINE = [r"(^|\.)q_proj$", r"layers\.\d+\.mlp\.(up|down)_proj", r"^(?!lm_head)", r".*\.(q|v)_?proj$", "qv"]
FINE += [r"^(?!(.*\.)?lm_head$)", r"(^|\.)(q_proj|k_proj|v_proj)$", r".*layers\.\d+\..*(gate|up)_proj"]
HANGS = [r"(a+)+$", "(a|aa)+$", "(a|a)*b", "(a|a)" * 39, "(a?){30}", "(.?){40}x", "(.*.*){2,}#", "x" * 1001]
HANGS += ["a?" * 25 + "a" * 25, ".*.*.*.*.*.*x", ".*" * 12 + "x"]


def test_patterns_that_could_hang_are_not_harmless():
    """The others take no time on a name that they nearly match; what is no regex is refused when it is compiled."""
    assert [p for p in HANGS if harmless(p)] == []
    assert [p for p in [*FINE, "["] if not harmless(p)] == []
    start = time.monotonic()
    for pattern in FINE:
        re.search(pattern, "model.layers.10.self_attn." + "a" * 60)
    assert time.monotonic() - start < 1
