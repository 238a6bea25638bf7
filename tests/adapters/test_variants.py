"""Every variant against an independent dense formula in fp64, and against the contract's invariants."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import optimizer as optimizers
from torch.utils.checkpoint import checkpoint

import adapters as ad
from tests.dense import Layer
from tests.oracles import oracle
from tests.oracles.delora import dense as dense_delora
from tests.toy import HAS_SITES, IDS, SETTINGS, attached, generic, moments, small, tokens, toy

logging.getLogger("adapters").setLevel(logging.ERROR)
each_setting = pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=IDS)
each_variant = pytest.mark.parametrize("name", HAS_SITES)


def loss_of(model, ids):
    logits = model(ids)
    return F.cross_entropy(logits.flatten(0, 1).float(), ids.flatten())


def gradients(handle):
    return {n: p.grad.clone() for n, p in handle.trainable().items()}


def close(got, expected, tolerance=1e-10):
    """Relative to the largest entry: sums of products differ by rounding of the large ones."""
    got, expected = got.detach(), expected.detach()
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    return float((got - expected).abs().max() if got.numel() else 0) <= tolerance * scale


def logits(model, ids):
    """Grad-free logits, computed afresh from what is there now."""
    with torch.no_grad():
        return model(ids)


def oracle_layers(model, handle, settings):
    """(name, module, Layer) of every adapted layer; trainable tensors are leaf copies."""
    C = moments(toy(torch.float64)) if settings else {}
    for name, site in handle.sites.items():
        module = site.layer
        t = {k: p.detach().clone().requires_grad_() for k, p in site.parameters().items()}
        t.setdefault("lora_g", torch.zeros(0, dtype=torch.float64))  # arrow with block = r has none
        frozen = dict(module.named_buffers(recurse=False))
        b = None if module.bias is None else module.bias.detach()
        yield name, module, Layer(site.cfg, module.weight.detach(), b, t, frozen, C.get(name))


# -- the function itself -----------------------------------------------------------------------------------------------
@each_setting
def test_output_and_gradients_equal_the_dense_formula(name, settings):
    """y', its gradients in every trainable tensor and in x; grad mode, grad-free, frozen; and P, Q of `factors`."""
    dense = oracle(name, "dense")
    if dense is None:
        pytest.skip(f"no formula to compare with: tests/oracles/{name}.py may define dense(L)")
    model = toy(torch.float64)
    handle = attached(model, name, dtype="float64", **settings)
    generic(handle)
    reads_inputs = settings.get("calibrated") or ad.VARIANTS[name].calibration(handle.cfg).value == "required"
    for at, layer, L in oracle_layers(model, handle, reads_inputs):
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(2, 5, layer.in_features, generator=generator, dtype=torch.float64, requires_grad=True)
        probe = torch.randn(2, 5, layer.out_features, generator=generator, dtype=torch.float64)
        W, b = dense(L)
        z = x.detach().clone().requires_grad_()
        expected = F.linear(z, W, b)
        (expected * probe).sum().backward()

        model.zero_grad()  # of what this layer shares with others
        got = layer(x)
        (got * probe).sum().backward()
        assert close(got, expected), at
        assert close(x.grad, z.grad), at
        for key, p in handle.sites[at].parameters().items():
            assert close(p.grad, L.t[key].grad), f"{at}.{key}"

        with torch.no_grad():
            assert torch.equal(layer(x), got)
            with handle.frozen():
                assert close(layer(x), expected)
                assert close(layer(input=x), expected)  # what was kept, by keyword
            if (factors := handle.sites[at].factors()) is not None:
                P, Q = factors
                assert close(P @ Q, W - L.W)


@each_setting
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_attach_is_identity_and_detach_restores(name, settings, dtype):
    """Logits bit-equal after attach and after detach, with gradients, without, frozen; nothing is left anywhere."""
    model, ids = toy(dtype), tokens()
    model.lm_head.weight.requires_grad_(False)

    def anatomy():
        modules = {n: (sorted(vars(m)), *(len(d) for d in hook_dicts(m))) for n, m in model.named_modules()}
        flags = {n: p.requires_grad for n, p in model.named_parameters()}
        return modules, flags, list(model.state_dict())

    def hook_dicts(m):
        return m._forward_hooks, m._forward_pre_hooks, m._forward_hooks_with_kwargs, m._non_persistent_buffers_set

    base, before, hooks = model(ids).detach(), anatomy(), set(optimizers._global_optimizer_post_hooks)
    weights = copy.deepcopy(model.state_dict())
    handle = attached(model, name, **settings)
    exact = handle.variant.identity_atol == 0
    in_bf16 = oracle(name, "BF16_ATOL", 0.1)
    atol = 0 if exact else handle.variant.identity_atol if dtype == torch.float32 else in_bf16
    atol *= max(1.0, float(base.abs().max()))  # stated for logits of order one; ablate's start is a share of the output
    with torch.no_grad(), handle.frozen():
        assert (model(ids) - base).abs().max() <= atol
    with torch.no_grad():
        assert (model(ids) - base).abs().max() <= atol
    assert (model(ids) - base).abs().max() <= atol
    with pytest.raises(ad.AdapterError, match="already attached"):
        attached(model, name, **settings)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(handle.trainable())
    assert not any("basis_" in k for k in model.state_dict())

    generic(handle)
    loss_of(model, ids).backward()
    assert not torch.equal(logits(model, ids), base)
    ad.detach(model)
    assert torch.equal(model(ids), base)
    assert anatomy() == before
    assert set(optimizers._global_optimizer_post_hooks) <= hooks
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(ad.AdapterError, match="nothing is attached"):
        ad.detach(model)


@each_setting
@pytest.mark.parametrize("start", ["init", "generic"])
def test_every_tensor_trains_and_the_base_does_not(name, settings, start):
    """Two plain SGD steps move every trainable tensor; base weights have no gradient and do not change."""
    model, ids = toy(), tokens()
    weights = copy.deepcopy(model.state_dict())
    handle = attached(model, name, **settings)
    if start == "generic":
        generic(handle)
    before = {n: p.detach().clone() for n, p in handle.trainable().items()}
    optimizer = torch.optim.SGD(ad.parameter_groups(model, lr=0.1))
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model, ids).backward()
        optimizer.step()
    stuck = [n for n, p in handle.trainable().items() if torch.equal(p, before[n])]
    assert not stuck
    assert all(p.grad is None for n, p in model.named_parameters() if n in weights)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items() if k in weights)


@each_setting
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_save_and_load_give_the_same_bits(name, settings, dtype, tmp_path):
    model, ids = toy(dtype), tokens()
    handle = attached(model, name, **settings)
    generic(handle)
    expected, graded = logits(model, ids), model(ids).detach()
    ad.save(model, tmp_path / "a.safetensors")
    ad.detach(model)
    other = toy(dtype)
    handle = ad.load(other, tmp_path / "a.safetensors")
    assert torch.equal(logits(other, ids), expected)
    assert torch.equal(other(ids), graded)


@each_setting
@pytest.mark.parametrize("zeroed", ["row", "column", "all"])
def test_zero_weights_give_no_nan(name, settings, zeroed):
    """Forward and gradients stay finite with a zero row, a zero column or no weight at all, from both starts."""
    model, ids = toy(), tokens()
    for layer in model.layers:
        for linear in layer.children():
            with torch.no_grad():
                {"row": linear.weight[1], "column": linear.weight[:, 1], "all": linear.weight}[zeroed].zero_()
    base = model(ids).detach()
    handle = attached(model, name, **settings)
    assert handle.variant.identity_atol > 0 or torch.equal(model(ids), base)
    for start in ("init", "generic"):
        if start == "generic":
            generic(handle)
        model.zero_grad()
        loss_of(model, ids).backward()
        assert model(ids).isfinite().all()
        assert logits(model, ids).isfinite().all()
        assert all(g.isfinite().all() for g in gradients(handle).values())


@pytest.mark.parametrize("name", [n for n in HAS_SITES if hasattr(small(n), "coeff")])
def test_coeff_is_a_knob_and_zero_is_off(name):
    """coeff 0 gives the base's bits in both grad modes; settable between grad-free forwards; out of range raises."""
    model, ids = toy(), tokens()
    base = model(ids).detach()
    handle = attached(model, name)
    generic(handle)
    full = logits(model, ids)
    with torch.no_grad():
        handle.coeff = 0.0
        assert torch.equal(model(ids), base)
        handle.coeff = 0.5
        half = model(ids)
        assert not torch.equal(half, base)
        assert not torch.equal(half, full)
        handle.coeff = 1.0
        assert torch.equal(model(ids), full)
    handle.coeff = 0.0
    assert torch.equal(model(ids).detach(), base)
    with pytest.raises(ad.AdapterError, match="coeff"):
        handle.coeff = float("nan")


@pytest.mark.parametrize("name", [n for n in HAS_SITES if hasattr(small(n), "suppress_only")])
def test_suppressed_gates_come_back(name):
    """suppress_only: g > 0 counts as 0 but keeps its gradient; a step projects it; inward gradients then move it."""
    model, ids = toy(), tokens()
    handle = attached(model, name, suppress_only=True)
    base = logits(model, ids)
    with torch.no_grad():
        for p in handle.trainable().values():
            p.fill_(0.5)
    assert torch.equal(logits(model, ids), base)
    optimizer = torch.optim.SGD(handle.trainable().values(), lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model, ids).backward()
        inward = {n: p.grad > 0 for n, p in handle.trainable().items()}
        assert all(mask.any() for mask in inward.values())  # from outside the range too
        optimizer.step()
        assert all((p <= 0).all() for p in handle.trainable().values())
    assert all((p[inward[n]] < 0).all() for n, p in handle.trainable().items())


# -- one function, however it is called -------------------------------------------------------------------------------
@each_setting
def test_gradients_do_not_depend_on_how_they_are_computed(name, settings):
    """In a frozen block, after a forward: two micro-batches, activation checkpointing (both ways), inference mode."""
    ids = tokens()
    model = toy(torch.float64)
    handle = attached(model, name, dtype="float64", **settings)
    generic(handle)

    def through_blocks(run):
        h = model.embedding(ids)
        h.requires_grad_()  # reentrant checkpointing needs an input that requires grad
        for layer in model.layers:
            h = run(layer, h)
        F.cross_entropy(model.lm_head(h).flatten(0, 1), ids.flatten()).backward()

    def in_two_parts():
        for part in ids.chunk(2):
            (F.cross_entropy(model(part).flatten(0, 1), part.flatten()) / 2).backward()

    def after_inference():
        with torch.inference_mode():
            model(ids)
        through_blocks(lambda layer, h: layer(h))

    ways = {
        "plain": lambda: through_blocks(lambda layer, h: layer(h)),
        "parts": in_two_parts,
        "reentrant": lambda: through_blocks(lambda layer, h: checkpoint(layer, h, use_reentrant=True)),
        "not reentrant": lambda: through_blocks(lambda layer, h: checkpoint(layer, h, use_reentrant=False)),
        "after inference": after_inference,
    }
    expected = {}
    for way, run in ways.items():
        model.zero_grad()
        with handle.frozen():
            with torch.no_grad():
                model(ids)  # something is kept
            run()
        got = gradients(handle)
        expected = expected or got
        assert all(close(g, expected[n], 1e-12) for n, g in got.items()), way


@each_variant
def test_a_deep_copy_is_independent(name):
    """Training, switching off and detaching a copy leave the original alone, and the other way round."""
    model, ids = toy(), tokens()
    base = model(ids).detach()
    handle = attached(model, name)
    generic(handle)
    with torch.no_grad():
        expected = model(ids)
    twin = copy.deepcopy(model)
    other = ad.attachment(twin)
    assert not {id(s) for s in handle.sites.values()} & {id(s) for s in other.sites.values()}
    with torch.no_grad():
        assert torch.equal(twin(ids), expected)
        generic(other, seed=9)
        assert not torch.equal(twin(ids), expected)
        assert torch.equal(model(ids), expected)
        ad.detach(twin)
        assert torch.equal(twin(ids), base)
        assert torch.equal(model(ids), expected)

    twin = copy.deepcopy(model)
    ad.detach(model)
    optimizer = torch.optim.AdamW(ad.parameter_groups(twin, lr=0.05), fused=True)
    with torch.no_grad():
        assert torch.equal(twin(ids), expected)
    loss_of(twin, ids).backward()
    optimizer.step()  # the copy watches optimizers itself: the original's hooks are gone
    with torch.no_grad():
        assert not torch.equal(twin(ids), expected)


# -- single variants ---------------------------------------------------------------------------------------------------
def test_none_changes_nothing_and_full_restores():
    """`none` trains nothing; `full` trains all base weights and detach brings them back bit for bit."""
    model, ids = toy(), tokens()
    base = model(ids).detach()
    with ad.attach(model, ad.NoneConfig()) as handle:
        assert not handle.trainable()
        assert torch.equal(model(ids), base)
        assert not any(p.requires_grad for p in model.parameters())
    with ad.attach(model, ad.FullConfig()) as handle:
        optimizer = torch.optim.SGD(ad.parameter_groups(model, lr=0.1))
        loss_of(model, ids).backward()
        optimizer.step()
        assert not torch.equal(model(ids), base)
    assert torch.equal(model(ids), base)


@pytest.mark.parametrize("distance", [1.0, 1e-2, 1e-4, 1e-6])
def test_hra_keeps_small_rotations_in_fp32(distance):
    """R − I from fp32 pairs against the sequential reflections in fp64: accurate however close a pair's rows are."""
    handle = attached(toy(), "hra")
    site = next(iter(handle.sites.values()))
    half = torch.randn(4, site.i, generator=torch.Generator().manual_seed(0))
    moved = half + distance * torch.randn(4, site.i, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        site.lora_U.copy_(torch.stack((half, moved), 1).flatten(0, 1))
        Pt, PT = site.alone(site.rotation, torch.float32, "lora_U")
    R = torch.eye(site.i, dtype=torch.float64)
    for u in site.lora_U.detach().double():
        R = R - 2 * torch.outer(R @ u, u) / u.dot(u)
    change = R - torch.eye(site.i, dtype=torch.float64)
    error = (PT.double() @ Pt.double() - change).norm() / change.norm()
    # The rows' own fp32 rounding, 6e-8, is a share 6e-8/distance of their difference.
    assert error < 1e-6 + 3e-7 / distance


def test_dora_norm_is_the_dense_one_in_fp32_and_bf16():
    """The expanded n² against norms of the dense W + sBA, relative to n, at the size of a trained update."""
    for dtype in (torch.float32, torch.bfloat16):
        handle = attached(toy(dtype), "dora")
        generic(handle)
        for site in handle.sites.values():
            A, B = site.lora_A.detach(), site.lora_B.detach()
            W = site.layer.weight.detach().double()
            n = (W + site.scale * B.double() @ A.double()).norm(dim=1)
            WAt = site.product()
            ratio = site.norm_ratio(*(t[None] for t in (A, B, site.basis_square, WAt)))[0]
            assert close(ratio.double(), W.norm(dim=1) / n, 2e-6)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)], ids=str)
def test_dora_keeps_no_layer_output_for_backward(dtype, tolerance, bias):
    """Bytes that a training pass saves, beside LoRA's; gradients equal those of layers alone, which keep outputs."""
    ids, kept = tokens(32, 32), {}

    def build(name):
        model = toy(dtype)
        for layer in model.layers if not bias else ():
            layer.q_proj.bias = layer.v_proj.bias = None
        handle = attached(model, name)
        generic(handle)
        return model, handle

    for name in ("lora", "dora"):
        model, handle = build(name)
        sizes = {}

        def pack(t, sizes=sizes):
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = loss_of(model, ids)  # its graph keeps every saved tensor alive, so that no address is used twice
        kept[name] = sum(sizes.values())
        loss.backward()
    smallest = ids.numel() * min(site.o for site in handle.sites.values()) * dtype.itemsize
    assert kept["dora"] < kept["lora"] + smallest

    alone, other = build("dora")
    h = alone.embedding(ids)
    for layer in alone.layers:
        h = layer(h)
    F.cross_entropy(alone.lm_head(h).flatten(0, 1).float(), ids.flatten()).backward()
    got, expected = gradients(handle), gradients(other)
    assert all((g - expected[n]).abs().max() <= tolerance * expected[n].abs().max() for n, g in got.items())


def test_pissa_keeps_small_updates_in_bf16():
    """After a step of 1e-4 the bf16 update is the fp64 one to bf16 rounding; B(Ax) − B₀(A₀x) would be noise."""
    model = toy(torch.bfloat16)
    handle = attached(model, "pissa")
    site = next(iter(handle.sites.values()))
    with torch.no_grad():
        for p in site.parameters().values():
            p.copy_(1e-4 * torch.randn(p.shape, generator=torch.Generator().manual_seed(4)))
        x = torch.randn(64, site.i, generator=torch.Generator().manual_seed(5)).bfloat16()
        A0, B0 = site.basis_A.double(), site.basis_B.double()
        A, B = A0 + site.lora_dA.double(), B0 + site.lora_dB.double()
        expected = x.double() @ (B @ A - B0 @ A0).T
        got = site.forward(x, torch.zeros(64, site.o, dtype=torch.bfloat16)).double()
        subtracted = (x @ A.bfloat16().T @ B.bfloat16().T - x @ A0.bfloat16().T @ B0.bfloat16().T).double()
    assert (got - expected).norm() < 0.01 * expected.norm()
    assert (subtracted - expected).norm() > 0.5 * expected.norm()


def test_delora_jumps_to_full_scale_and_residual_init_does_not():
    """One tiny step from B = 0 makes ‖ΔW‖ of order λ; the authors' residual start makes a step proportional to lr."""
    size = {}
    for residual in (False, True):
        for lr in (1e-4, 1e-3):
            model, ids = toy(), tokens()
            handle = attached(model, "delora", residual_init=residual, lambda0=1.0)
            optimizer = torch.optim.Adam(ad.parameter_groups(model, lr=lr))
            loss_of(model, ids).backward()
            optimizer.step()
            P, Q = next(iter(handle.sites.values())).factors()
            size[residual, lr] = float((P @ Q).detach().norm())
    assert size[False, 1e-3] == pytest.approx(size[False, 1e-4], rel=0.05)
    assert size[True, 1e-3] == pytest.approx(10 * size[True, 1e-4], rel=0.05)
    assert size[True, 1e-4] < 0.01 * size[False, 1e-4]


def test_delora_norms_are_clamped_at_1e_4():
    """Rows of A and columns of B shorter than that scale the change down, instead of being blown up to unit length."""
    model = toy(torch.float64)
    handle = attached(model, "delora", dtype="float64")
    generic(handle)
    for site in handle.sites.values():
        with torch.no_grad():
            site.lora_A[0] *= 1e-6
            site.lora_B[:, 1] *= 1e-5
            site.lora_A[2] *= 1e-3
    for at, _, L in oracle_layers(model, handle, False):
        P, Q = handle.sites[at].factors()
        assert close(P @ Q, dense_delora(L)[0] - L.W), at


def test_bounds_are_checked_and_ranks_are_clamped():
    """Cross-field errors name the field; a rank too large for a layer becomes the largest one that fits it."""
    for wrong in (
        lambda: ad.HRAConfig(r=7),
        lambda: ad.AntiPaSTORotConfig(r=6),
        lambda: ad.AntiPaSTOArrowConfig(r=4, block=5),
        lambda: ad.RoadConfig(kind=3),
        lambda: ad.RoadConfig(group_size=7),
        lambda: ad.DeLoRAConfig(lambda0=0),
    ):
        with pytest.raises(ad.AdapterError, match=r"r out of range|block|kind|group_size|lambda0"):
            wrong()
    with pytest.raises(ad.AdapterError, match="group_size does not fit a layer"):
        ad.attach(toy(), ad.RoadConfig(group_size=10))
    narrow = nn.ModuleDict({"q_proj": nn.Linear(7, 9)})
    for cfg, r in ((ad.HRAConfig(r=32), 6), (ad.AntiPaSTORotConfig(r=32), 4), (ad.AntiPaSTOArrowConfig(r=32), 7)):
        with ad.attach(narrow, cfg) as handle:
            assert handle.clamped == {"q_proj": r}
            assert narrow["q_proj"](torch.ones(1, 7)).isfinite().all()
