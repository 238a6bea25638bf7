"""Second moments against collected activations, the variants that read them, and what their checkpoints store."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils.rnn import pad_sequence

import adapters as ad
from adapters._calibration import Moments, calibration_sha256, second_moments
from adapters._format import tensors_sha256
from adapters._site import basis_of
from adapters.eva import shared_out
from tests import zoo
from tests.toy import CALIBRATION, Toy, attached, generic, moments, record_of, small, tokens, toy
from tools.probe_quantized import quantized_model

logging.getLogger("adapters").setLevel(logging.ERROR)
CALIBRATED = [
    ("eva", {}),
    ("eva", {"rho": 2.0}),
    ("antipasto", {"calibrated": True}),
    ("antipasto_corda", {}),
    ("antipasto_asvd", {}),
    ("antipasto_ablate", {"calibrated": True}),
    ("antipasto_ablate", {"cov_orient": True, "k": 3}),
]
each = pytest.mark.parametrize(("name", "settings"), CALIBRATED, ids=[f"{n}-{list(s)}" for n, s in CALIBRATED])


def linears(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}


def clean(model):
    """No hook and no adapter tensor is left."""
    hooks = any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    return not hooks and not any("lora_" in n or "basis_" in n for n in dict(model.named_parameters()))


def qwen():
    """fp64, so that a padded and an unpadded batch agree to rounding far below what padding would add."""
    return quantized_model("none", dtype=torch.float64)


def no_grad_logits(model, ids):
    with torch.no_grad():
        return model(ids)


# -- second moments ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_moments_are_those_of_the_collected_activations(dtype):
    model = toy(dtype)
    got, expected = second_moments(model, linears(model), iter(CALIBRATION)), moments(model)
    for name, C in expected.items():
        assert got[name].dtype == torch.float64
        assert torch.allclose(got[name], C, rtol=1e-12, atol=1e-12), name
        assert got.tokens[name] == sum(b.numel() for b in CALIBRATION)


def test_padding_does_not_count():
    """A padded batch gives the moments of its sequences one by one; without its mask it does not."""
    model, lengths = qwen(), (3, 9, 6)
    sequences = [torch.randint(1, 128, (1, n), generator=torch.Generator().manual_seed(n)) for n in lengths]
    padded, mask = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.long)
    for row, ids in enumerate(sequences):
        padded[row, : ids.shape[1]], mask[row, : ids.shape[1]] = ids[0], 1
    layers = {n: m for n, m in linears(model).items() if n != "lm_head"}
    alone = second_moments(model, layers, sequences)
    together = second_moments(model, layers, [{"input_ids": padded, "attention_mask": mask}])
    unmasked = second_moments(model, layers, [padded])
    for name in layers:
        assert torch.allclose(together[name], alone[name], rtol=1e-7, atol=1e-9), name
        assert together.tokens[name] == sum(lengths)
        assert not torch.allclose(unmasked[name], alone[name], rtol=1e-2, atol=1e-3), name


def test_one_accumulator_for_layers_with_one_input_and_no_more_than_the_budget():
    """q, k and v share; a small budget makes several passes with the same result and few accumulators at a time."""
    model, calls = qwen(), []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    layers = {n: m for n, m in linears(model).items() if n != "lm_head"}
    ids = [tokens(2, 5), tokens(3, 4)]
    whole = second_moments(model, layers, ids)
    parts = {"q_proj": 0, "k_proj": 0, "v_proj": 0, "o_proj": 3, "gate_proj": 4, "up_proj": 4, "down_proj": 6}
    named = {n: whole[n] for n in layers}
    assert len(calls) == 1 + len(ids)  # one look at the first batch to see who shares, then one pass
    assert len({id(C) for C in named.values()}) == 8
    for block in ("model.layers.0.", "model.layers.1."):
        order = [n for n in layers if n.startswith(block)]
        for n, leader in zip(order, parts.values(), strict=True):
            assert named[n] is named[order[leader]]

    calls.clear()
    tight = second_moments(model, layers, ids, budget=8 * 64 * 64 * 2)  # two of width 64, or one of width 128
    for name in layers:
        assert torch.equal(tight[name], named[name])
        assert sum(C.numel() for C in tight._held.values()) <= max(2 * 64 * 64, 128 * 128)
    assert 1 + 4 * len(ids) <= len(calls) <= 1 + 8 * len(ids)


def test_sharing_that_ends_after_the_first_batch_is_noticed():
    class Sometimes(Toy):
        def forward(self, ids):
            h = self.embedding(ids)
            block = self.layers[0]
            return block.k_proj(h) + block.v_proj(h if ids.shape[1] > 3 else 2 * h)

    model = Sometimes(keyword=False).double()
    layers = {n: getattr(model.layers[0], n) for n in ("k_proj", "v_proj")}
    batches = [tokens(2, 5), tokens(2, 3)]
    got = second_moments(model, layers, batches)
    x = [model.embedding(b).flatten(0, 1).detach() for b in batches]
    assert torch.allclose(got["k_proj"], (x[0].T @ x[0] + x[1].T @ x[1]) / 16)
    assert torch.allclose(got["v_proj"], (x[0].T @ x[0] + 4 * x[1].T @ x[1]) / 16)


def test_the_model_runs_in_evaluation_mode_and_is_left_as_it_was():
    """Mixed training flags come back, dropout is off, no cache and one position of logits, also when forward raises."""
    seen = {}

    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.drop, self.q_proj = nn.Linear(3, 3), nn.Dropout(0.9), nn.Linear(3, 3)

        def forward(self, x, use_cache=True, logits_to_keep=0, fail=False):
            seen.update(use_cache=use_cache, logits_to_keep=logits_to_keep, grad=torch.is_grad_enabled())
            y = self.q_proj(self.drop(x))
            if fail:
                raise RuntimeError("boom")
            return y

    model, x = Recorder().train(), torch.randn(5, 4, 3)
    model.a.eval()
    flags = [m.training for m in model.modules()]
    C = second_moments(model, {"q_proj": model.q_proj}, [x])["q_proj"]
    rows = x.flatten(0, 1).double()
    assert torch.allclose(C, rows.T @ rows / 20)
    assert seen == {"use_cache": False, "logits_to_keep": 1, "grad": False}
    with pytest.raises(RuntimeError, match="boom"):
        second_moments(model, {"q_proj": model.q_proj}, [{"x": x, "fail": True}])
    assert [m.training for m in model.modules()] == flags
    assert clean(model)


def test_errors_name_the_problem_and_leave_the_model_alone():
    def broken(model):
        model.embedding.weight.data[3] = float("inf")
        return model

    class Unused(Toy):
        def forward(self, ids):
            return self.lm_head(self.layers[0](self.embedding(ids)))

    class Masked(Toy):
        def forward(self, ids, attention_mask):
            return super().forward(ids)

    def masked(shape):
        return [{"ids": tokens(4, 6), "attention_mask": torch.zeros(shape, dtype=torch.long)}]

    for model, batches, message in (
        (toy(), [], "no batches"),
        (toy(), tokens(), "this is one batch"),
        (toy(), [tokens().tolist()], "not a batch, got 'list'"),
        (toy(), None, "needs calibration data"),
        (broken(toy()), [torch.full((1, 9), 3)], r"NaN or Inf in the inputs of layer layers\.0\.q_proj"),
        (Unused(keyword=True), CALIBRATION, r"layer layers\.1\.q_proj was never called"),
        (Masked(keyword=True), masked((4, 6)), "no unmasked token"),
        (Masked(keyword=True), masked((4, 5)), "padding, got"),
        (Masked(keyword=True), masked((4, 1, 6, 6)), "attention_mask has another shape"),
        (
            toy(),
            [tokens(1, 7)],
            r"fewer calibration tokens than the rank at layer layers.0.q_proj, got 7; expected >= r=8 \+ 1",
        ),
    ):
        with pytest.raises(ad.AdapterError, match=message):
            ad.attach(model, small("eva"), calibration=batches)
        assert clean(model), message
        with pytest.raises(ad.AdapterError, match="nothing is attached"):
            ad.detach(model)


def test_the_hash_is_of_the_batches_and_is_kept(caplog):
    """Values, order, masks, dtypes count; an iterator is read once; unused batches leave no hash and a warning."""
    ids = tokens(2, 3)
    batches = [[ids], [ids + 1], [ids.int()], [ids.view(3, 2)], [{"input_ids": ids}], [ids, ids], [ids[:1], ids[1:]]]
    batches += [[{"input_ids": ids, "attention_mask": torch.ones_like(ids)}], [ids.float()]]
    assert len({calibration_sha256(b) for b in batches}) == len(batches)
    assert calibration_sha256([ids]) == calibration_sha256([ids.clone().t().contiguous().t()])
    expected = calibration_sha256(CALIBRATION)
    for name in ("eva", "antipasto_corda", "antipasto"):
        assert ad.attach(toy(), small(name), calibration=iter(CALIBRATION)).calibration_sha256 == expected
    assert ad.attach(toy(), small("antipasto")).calibration_sha256 is None
    with caplog.at_level(logging.WARNING, "adapters"):
        assert ad.attach(toy(), small("lora"), calibration=CALIBRATION).calibration_sha256 is None
    assert "lora reads no calibration data" in caplog.text


def test_encoder_decoder_models_have_two_masks():
    """T5 with both texts padded to one length: every layer's moments are those of the pairs one by one."""
    model = zoo.build("t5").double()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    generator = torch.Generator().manual_seed(1)
    sources, texts = (
        [torch.randint(3, 40, (n,), generator=generator) for n in sizes] for sizes in ((6, 4, 2), (3, 6, 5))
    )
    pairs = [{"input_ids": s[None], "labels": t[None]} for s, t in zip(sources, texts, strict=True)]
    alone = second_moments(model, layers, pairs)
    batch = {
        "input_ids": pad_sequence(sources, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(s) for s in sources], batch_first=True),
    }
    labels = pad_sequence(texts, batch_first=True, padding_value=-100)
    started = torch.cat((torch.zeros(3, 1, dtype=torch.long), labels[:, :-1].clamp_min(0)), 1)
    for target in (
        {"labels": labels},
        {"decoder_input_ids": started, "decoder_attention_mask": (labels != -100).long()},
        {"decoder_input_ids": started, "decoder_attention_mask": (labels != -100).long(), "labels": labels},
    ):
        together = second_moments(model, layers, [batch | target])
        for name in layers:
            assert torch.allclose(together[name], alone[name], rtol=1e-9, atol=1e-12), name
            from_encoder = name.startswith("encoder") or name.endswith(("EncDecAttention.k", "EncDecAttention.v"))
            assert together.tokens[name] == (12 if from_encoder else 14), name


@pytest.mark.parametrize("name", ["llama", "bert", "t5", "whisper", "llama classifier"])
def test_batches_may_hold_labels(name):
    """They change no moment and need no loss of a logit; attach with them works."""
    model, batch = zoo.build(name), zoo.inputs(name)
    ids = batch.get("decoder_input_ids", batch.get("input_ids"))
    labels = torch.tensor([0, 1]) if name == "llama classifier" else ids
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and "proj_out" not in n}
    plain, labelled = (second_moments(model, layers, [b]) for b in (batch, batch | {"labels": labels}))
    for n in layers:
        assert torch.equal(plain[n], labelled[n]), n
    ad.attach(model, ad.EVAConfig(r=2), calibration=[batch | {"labels": labels}])


def test_a_mask_is_never_laid_over_inputs_of_another_order():
    """Time before batch has as many rows as the mask, in another order; flattened tokens have its order."""

    class Transposed(Toy):
        def forward(self, ids, attention_mask):
            h = self.embedding(ids)
            self.layers[0].q_proj(h.flatten(0, 1))
            return self.layers[0].v_proj(h.transpose(0, 1))

    model = Transposed(keyword=False)
    ids, mask = tokens(2, 5), torch.ones(2, 5, dtype=torch.long)
    mask[1, 3:] = 0
    batch = {"ids": ids, "attention_mask": mask}
    q, v = ({n: model.get_submodule(n)} for n in ("layers.0.q_proj", "layers.0.v_proj"))
    x = model.embedding(ids)[mask.bool()].double().detach()
    assert torch.allclose(second_moments(model, q, [batch])["layers.0.q_proj"], x.T @ x / 8)
    with pytest.raises(ad.AdapterError, match=r"v_proj are padding, got \(5, 2, 16\)"):
        second_moments(model, v, [batch])["layers.0.v_proj"]


def angles(A, B):
    """Cosines of the principal angles between two row spaces."""
    return np.linalg.svd(np.linalg.qr(A.T)[0].T @ np.linalg.qr(B.T)[0])[1]


def test_centred_moments_give_the_subspace_of_pefts_incremental_pca():
    """Streamed, masked and with a mean that is far larger than the spread; uncentred, the mean takes a direction."""
    incremental = pytest.importorskip("peft.utils.incremental_pca").IncrementalPCA(n_components=12)

    class Affine(nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj = nn.Linear(12, 12)

        def forward(self, x, attention_mask):
            return self.q_proj(x)

    generator = torch.Generator().manual_seed(0)
    spread = torch.diag(torch.linspace(3, 0.3, 12)) @ torch.linalg.qr(torch.randn(12, 12, generator=generator))[0]
    mean = 30 * torch.randn(12, generator=generator)
    model, batches, kept = Affine(), [], []
    for _ in range(4):
        x = mean + torch.randn(6, 9, 12, generator=generator) @ spread
        mask = torch.rand(6, 9, generator=generator) < 0.8
        batches.append({"x": torch.where(mask[..., None], x, 1e3), "attention_mask": mask.long()})
        kept.append(x[mask])
        incremental.partial_fit(kept[-1].double())
    X = torch.cat(kept).double().numpy()
    found = {}
    for centre in (True, False):
        cfg = ad.EVAConfig(r=5, centre=centre, dtype="float64", targets="q_proj")
        handle = ad.attach(model, cfg, calibration=batches)
        found[centre] = handle.sites["q_proj"].lora_A.detach().numpy()
        ad.detach(model)
    covariance = second_moments(model, {"q_proj": model.q_proj}, batches, centred=True)["q_proj"]
    assert np.allclose(covariance, np.cov(X.T, bias=True), rtol=1e-9, atol=1e-9)
    assert angles(found[True], np.linalg.svd(X - X.mean(0))[2][:5]).min() > 1 - 1e-9
    assert angles(found[True], incremental.components_[:5].numpy()).min() > 1 - 1e-6
    unit = (mean / mean.norm()).numpy()
    assert abs(found[False][0] @ unit) > 0.996
    assert np.linalg.norm(found[True] @ unit) < 0.9


@pytest.mark.parametrize("name", ["antipasto_corda", "antipasto_asvd", "antipasto_ablate", "antipasto", "eva"])
def test_bases_do_not_depend_on_the_unit_of_the_inputs(name):
    """Inputs a thousand times larger or smaller give the same function of the same parameters."""

    class Scaled(nn.Module):
        def __init__(self, scale):
            super().__init__()
            torch.manual_seed(0)
            self.scale, self.q_proj = scale, nn.Linear(16, 16).double()

        def forward(self, x):
            return self.q_proj(self.scale * x)

    settings = {"cov_orient": True} if name == "antipasto_ablate" else {}
    cfg = small(name, dtype="float64", **settings)
    x = torch.randn(100, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * torch.linspace(
        1, 0.01, 16
    )
    changes = []
    for scale in (1.0, 1e3, 1e-3):
        model = Scaled(scale)
        handle = ad.attach(model, cfg, seed=0, calibration=[x])
        generic(handle)
        P, Q = handle.sites["q_proj"].factors()
        changes.append((P @ Q).detach())
    for other in changes[1:]:
        assert torch.allclose(other, changes[0], rtol=1e-7, atol=1e-9 * float(changes[0].abs().max()))


# -- what the variants make of them ------------------------------------------------------------------------------------
def collected(model, name):
    """Inputs of one layer over CALIBRATION, (n, i), in numpy."""
    seen = []
    hook = model.get_submodule(name).register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args or (kwargs["input"],))[0].detach().flatten(0, 1)), with_kwargs=True
    )
    for batch in CALIBRATION:
        no_grad_logits(model, batch)
    hook.remove()
    return torch.cat(seen).numpy()


@pytest.mark.parametrize("layer", ["layers.0.q_proj", "layers.1.v_proj"])
def test_bases_equal_a_plain_svd_of_the_activations(layer):
    """Right singular vectors of X, centred or not, for EVA; of W·(XᵀX/n + eps)^½ for CorDA, with S² as output energies;
    ASVD's."""
    model = toy(torch.float64)
    X, W = collected(model, layer), model.get_submodule(layer).weight.detach().numpy()

    def site(name, **settings):
        with attached(model, name, dtype="float64", **settings) as handle:
            module = handle.sites[layer].layer
            tensors = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
            return {k: t.detach().numpy().copy() for k, t in tensors.items()}

    for centre, rows in ((True, X - X.mean(0)), (False, X)):
        A = site("eva", centre=centre)["lora_A"]
        V = np.linalg.svd(rows)[2][:8]
        assert np.allclose(np.abs((A * V).sum(1)), 1, atol=1e-8)

    eps, power = 1e-9, (X**2).mean()  # cov_eps counts in mean squares of an input
    got = site("antipasto_corda", cov_eps=eps)
    values, Q = np.linalg.eigh(X.T @ X / len(X) + eps * power * np.eye(X.shape[1]))
    U, S, Vh = np.linalg.svd(W @ (Q * np.sqrt(values)) @ Q.T)
    assert np.allclose(got["basis_S"], S[:8])
    expected = U[:, :8] * S[:8] @ Vh[:8] @ (Q / np.sqrt(values)) @ Q.T
    assert np.allclose(got["basis_U"] * got["basis_S"] @ got["basis_Vh"], expected, atol=1e-8)
    energy = ((X @ W.T @ got["basis_U"]) ** 2).mean(0)
    assert np.allclose(energy, got["basis_S"] ** 2, rtol=1e-6)

    got = site("antipasto_asvd", cov_eps=0.01)
    d = np.sqrt((X**2).mean(0) + 0.01 * power)
    U, S, Vh = np.linalg.svd(W * d)
    assert np.allclose(got["basis_d"], d)
    expected = U[:, :8] * S[:8] @ Vh[:8] / d
    assert np.allclose(got["basis_U"] * got["basis_S"] @ got["basis_Vh"], expected, atol=1e-9)


@each
@pytest.mark.parametrize("inputs", ["rank one", "dead channel", "all zero"])
def test_degenerate_inputs_give_no_nan(name, settings, inputs):
    """Few independent inputs, a channel or all of them always zero: bases, outputs and gradients stay finite."""
    model, batches = toy(), CALIBRATION
    with torch.no_grad():
        if inputs == "rank one":
            batches = [torch.full((8, 6), 3)]
        elif inputs == "dead channel":
            model.embedding.weight[:, 2] = 0
        else:
            model.embedding.weight.zero_()
            for linear in model.layers.modules():
                if isinstance(linear, nn.Linear) and linear.bias is not None:
                    linear.bias.zero_()
    handle = ad.attach(model, small(name, **{k: v for k, v in settings.items() if k != "calibrated"}), seed=0,
                       calibration=batches)  # fmt: skip
    generic(handle)
    ids = tokens()
    model(ids).square().mean().backward()
    assert no_grad_logits(model, ids).isfinite().all()
    assert all(p.isfinite().all() and p.grad.isfinite().all() for p in handle.trainable().values())
    assert all(b.isfinite().all() for b in model.buffers())


def test_rho_shares_out_the_same_budget():
    """By hand; then on a model: ranks differ, their sum and the parameters per shape are those of uniform ranks."""
    ratios = {"a": [0.5, 0.4, 0.05, 0.05], "b": [0.9, 0.06, 0.04, 0.0], "c": [1.0, 0.0, 0.0, 0.0]}
    assert shared_out(2, 4, ratios) == {"a": 3, "b": 2, "c": 1}
    assert shared_out(2, 2, ratios) == {"a": 2, "b": 2, "c": 2}
    assert shared_out(1, 4, ratios) == {"a": 1, "b": 1, "c": 1}
    assert shared_out(3, 4, dict.fromkeys("ab", [0.0] * 4)) == {"a": 3, "b": 3}

    model = toy()
    with torch.no_grad():
        model.layers[0].down_proj.weight *= 20  # one large direction: the later layers' inputs are explained by less
        model.layers[0].down_proj.weight[1:] *= 0.01
    uniform = {}
    for rho in (1.0, 1.5, 3.0):
        for scaling in ("standard", "rslora"):
            cfg = ad.EVAConfig(r=4, rho=rho, targets="all", scaling=scaling)
            with ad.attach(model, cfg, calibration=CALIBRATION) as handle:
                ranks = {n: s.cfg.r for n, s in handle.sites.items()}
                shapes = {n: (s.o, s.i) for n, s in handle.sites.items()}
                assert sum(p.numel() for p in handle.trainable().values()) == ad.parameter_count(model, cfg)
                assert all(s.scale == pytest.approx(64 / 4 ** (1 if scaling == "standard" else 0.5))
                           for s in handle.sites.values())  # fmt: skip
                assert not handle.clamped
                for site in handle.sites.values():
                    gram = (site.lora_A @ site.lora_A.T).detach()
                    assert torch.allclose(gram, torch.eye(site.cfg.r), atol=1e-5)
            for shape in set(shapes.values()):
                of_shape = [r for n, r in ranks.items() if shapes[n] == shape]
                assert sum(of_shape) == 4 * len(of_shape)
                assert min(of_shape) >= 1
                assert max(of_shape) <= int(4 * rho)
            uniform[rho] = len(set(ranks.values())) == 1
    assert uniform == {1.0: True, 1.5: False, 3.0: False}


def ablate(k, D, alpha, coeff=1.0):
    handle = attached(toy(), "antipasto_ablate", k=k, coeff=coeff)
    site = next(iter(handle.sites.values()))
    site.alive = handle
    with torch.no_grad():
        site.lora_c.copy_(D)
        site.lora_alpha.copy_(torch.tensor(alpha))
    return site


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("coeff", [0.0, 0.5, 1.0])
def test_ablation_only_removes(k, coeff):
    """‖I − c·Q diag(α) Qᵀ‖ ≤ 1 and no NaN in gradients, for directions of any length, equal, or zero, and any α."""
    random = torch.randn(8, k, generator=torch.Generator().manual_seed(0))
    for D in (random, 1e4 * random, 1e-4 * random, random[:, :1].expand(8, k), torch.zeros(8, k), torch.eye(8)[:, :k]):
        for alpha in ([0.0] * k, [1.0, 0.3, 0.0][:k], [7.0, -2.0, 0.5][:k]):
            site = ablate(k, D, alpha, coeff)
            Q, share = site.directions(site.lora_c[None])[0], site.share(site.lora_alpha[None])[0]
            left = torch.eye(8) - (Q * share) @ Q.T
            assert torch.linalg.matrix_norm(left, 2) <= 1 + 1e-5
            x = torch.randn(4, site.i, generator=torch.Generator().manual_seed(1))
            site.layer(x).square().sum().backward()
            assert site.lora_c.grad.isfinite().all()
            assert site.lora_alpha.grad.isfinite().all()


def test_ablation_rates_come_back():
    """α outside [0, 1] acts as its clamped value, keeps its gradient, and a step puts it back into range."""
    for outside, edge in ((1.4, 1.0), (-0.4, 0.0)):
        site, same = ablate(1, torch.ones(8, 1), [outside]), ablate(1, torch.ones(8, 1), [edge])
        x = torch.randn(4, site.i, generator=torch.Generator().manual_seed(1))
        assert torch.equal(site.layer(x), same.layer(x))
        site.layer(x).square().sum().backward()
        same.layer(x).square().sum().backward()
        assert torch.equal(site.lora_alpha.grad, same.lora_alpha.grad)
        assert site.lora_alpha.grad.abs() > 0
        site.lora_alpha.grad.copy_(torch.tensor([outside]))  # inward
        torch.optim.SGD([site.lora_alpha], lr=1e-3).step()
        assert site.lora_alpha.item() == edge
        torch.optim.SGD([site.lora_alpha], lr=1e-1).step()
        assert 0 < site.lora_alpha.item() < 1


# -- checkpoints -------------------------------------------------------------------------------------------------------
WHOLE = {"basis_U", "basis_S", "basis_Vh"}
STORED = {"eva": set(), "antipasto": {"basis_index"}, "antipasto_corda": WHOLE, "antipasto_asvd": {"basis_d"}}


def contents(path):
    """Metadata, in which the tensors' hash stands for them; their order in a file is random."""
    with safe_open(path, framework="pt") as f:
        return f.metadata()


@each
@pytest.mark.parametrize("basis", [False, True])
def test_checkpoints_store_what_the_weight_does_not_give(name, settings, basis, tmp_path):
    """Exactly those basis tensors; loading needs no calibration, gives the same bits, and saves the same file again."""
    model, ids = toy(), tokens()
    handle = attached(model, name, targets="all", **settings)
    generic(handle)
    expected = no_grad_logits(model, ids)
    ad.save(model, tmp_path / "a", basis=basis)
    with safe_open(tmp_path / "a", framework="pt") as f:
        stored = {k.rsplit(".", 1)[1] for k in f.keys() if "basis_" in k}  # noqa: SIM118
    assert record_of(tmp_path / "a")["calibration_sha256"] == calibration_sha256(CALIBRATION)
    needed = WHOLE if settings.get("cov_orient") else STORED.get(name, {"basis_index"})
    every = {b for b, _ in handle.sites["layers.0.q_proj"].layer.named_buffers(recurse=False)}
    assert stored == (every if basis else needed)

    other = toy()
    loaded = ad.load(other, tmp_path / "a")
    assert torch.equal(no_grad_logits(other, ids), expected)
    assert loaded.calibration_sha256 == handle.calibration_sha256
    assert {n: s.cfg for n, s in loaded.sites.items()} == {n: s.cfg for n, s in handle.sites.items()}
    ad.save(other, tmp_path / "b", basis=basis)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")

    # Another calibration gives another function at the same parameters: what was stored mattered.
    if name != "eva":
        another = toy()
        third = ad.attach(another, handle.cfg, seed=0, calibration=[tokens(9, 6, seed=40)])
        with torch.no_grad():
            for n, p in third.trainable().items():
                p.copy_(handle.trainable()[n])
        assert third.calibration_sha256 != handle.calibration_sha256
        if needed != {"basis_index"}:  # eight of sixteen directions may be the same ones
            assert not torch.allclose(no_grad_logits(another, ids), expected, atol=1e-4)


@pytest.mark.parametrize("strict", [True, False])
def test_broken_stored_bases_are_refused(strict, tmp_path):
    """Missing, misshapen, non-finite or out-of-range basis tensors and impossible ranks: one line, model unchanged."""

    def rewrite(path, change_tensors, change_layers=lambda layers: None):
        record, tensors = record_of(path), load_file(path)
        change_tensors(tensors)
        change_layers(record["layers"])
        record["tensors_sha256"] = tensors_sha256(tensors)
        save_file(tensors, path, metadata={"adapters": json.dumps(record)})

    at = "layers.0.q_proj"
    for name, change, message in (
        ("antipasto_corda", lambda t: t.pop(f"{at}.basis_S"), "wrong shape of .*basis_S, got None"),
        ("antipasto_corda", lambda t: t.update({f"{at}.basis_S": torch.ones(5)}), "wrong shape"),
        ("antipasto_corda", lambda t: t[f"{at}.basis_S"].fill_(float("nan")), "NaN or Inf"),
        ("antipasto_asvd", lambda t: t.update({f"{at}.basis_d": torch.ones(5)}), "wrong shape"),
        ("antipasto", lambda t: t[f"{at}.basis_index"].fill_(99), "does not fit"),
        ("eva", lambda t: t.update({f"{at}.basis_x": torch.ones(5)}), "unknown tensor"),
        ("eva", None, "broken metadata|wrong shape"),
    ):
        model = toy()
        with attached(model, name, **({"calibrated": True} if name == "antipasto" else {})) as handle:
            generic(handle)
            ad.save(model, tmp_path / "a")
        if change is None:
            for wrong in ({"r": 0}, {"r": 5}, {"rank": 5}, {"r": "8"}):
                rewrite(tmp_path / "a", lambda t: None, lambda layers, wrong=wrong: layers[at].update(config=wrong))
                with pytest.raises(ad.AdapterError, match=message):
                    ad.load(model, tmp_path / "a", strict=strict)
        else:
            rewrite(tmp_path / "a", change)
            with pytest.raises(ad.AdapterError, match=message):
                ad.load(model, tmp_path / "a", strict=strict)
        assert clean(model)


def test_the_basis_cache_knows_the_calibration(tmp_path):
    for batches, hits in ((CALIBRATION, 0), (CALIBRATION, 4), ([tokens(9, 6, seed=40)], 0)):
        handle = ad.attach(toy(), small("antipasto_corda"), calibration=batches, cache_dir=tmp_path)
        assert handle.basis_cache.hits == hits


@each
def test_attaching_in_inference_mode_leaves_trainable_tensors(name, settings):
    model, ids = toy(), tokens()
    with torch.inference_mode():
        handle = attached(model, name, **settings)
        expected = model(ids).clone()
    loss = model(ids).square().mean()
    loss.backward()
    assert any(p.grad.any() for p in handle.trainable().values())
    assert torch.allclose(no_grad_logits(model, ids), expected)


def test_moments_are_read_before_any_hook_is_there():
    """With a budget for one layer at a time, every layer's moments are those of the bare model."""
    model = toy(torch.float64)
    layers = {n: m for n, m in linears(model).items() if n.endswith(("q_proj", "v_proj"))}
    lazy = Moments(model, layers, CALIBRATION, budget=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adapters._hooks.second_moments", lambda *_, **__: lazy)
        handle = attached(model, "antipasto_ablate", cov_orient=True)  # off identity from the start
    one_pass = attached(toy(torch.float64), "antipasto_ablate", cov_orient=True)
    for name, site in handle.sites.items():
        assert torch.equal(site.basis_S, one_pass.sites[name].basis_S)


def test_a_damaged_basis_on_disk_is_computed_again(tmp_path):
    """One flipped bit in any tensor, and a file cut short: the basis is that of an empty cache, bit for bit."""
    expected = cached_basis(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    whole = file.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")  # of the tensors' bytes
    damaged = [whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1 :] for n in range(start, len(whole), 997)]
    for content in [*damaged, whole[:-40], b""]:
        file.write_bytes(content)
        assert all(torch.equal(t, expected[k]) for k, t in cached_basis(tmp_path).items())
    assert file.read_bytes() == whole  # written again


def cached_basis(folder):
    """Copies of the basis of one layer of a toy model whose bases are cached in `folder`."""
    with ad.attach(toy(), small("antipasto", layers=0, targets=r"q_proj$"), cache_dir=folder, seed=0) as handle:
        (site,) = handle.sites.values()
        return {k: t.clone() for k, t in basis_of(site).items()}
