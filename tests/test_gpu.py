"""What only a CUDA device can show. `make gsm8k-gpu` runs this first; without a device everything here is skipped.

GPU_TESTS=cpu runs on a CPU what can run there, to see that the tests themselves are right; those that compare the two
devices, or ask the CUDA runtime, stay skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import adapters as ad
from adapters._contract import Calibration
from harness.data.batches import collate
from harness.data.tokenize import Example
from harness.evaluation.generate import generate
from harness.measure.health import base_sha256
from harness.paths import ROOT
from harness.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from harness.training.loop import optimizer_step
from harness.training.masters import Masters
from tools.probe_quantized import quantized_model

DEVICE = os.environ.get("GPU_TESTS", "cuda")
HAS_CUDA = torch.cuda.is_available()
needs_cuda = pytest.mark.skipif(not HAS_CUDA, reason="torch sees no CUDA device")
pytestmark = [pytest.mark.gpu, *([needs_cuda] if DEVICE == "cuda" else [])]

ADAPTERS = [n for n, v in ad.VARIANTS.items() if not v.trains_base and v.Config is not ad.NoneConfig]
FROM_THE_WEIGHT = [
    n for n in ADAPTERS if ad.VARIANTS[n].calibration(ad.VARIANTS[n].Config()) is not Calibration.required
]
KINDS = [(q, d) for q in ("none", "8bit", "4bit") for d in (torch.float32, torch.bfloat16)]
each_kind = pytest.mark.parametrize(("kind", "dtype"), KINDS, ids=lambda p: str(p).removeprefix("torch."))


def build(kind: str = "none", dtype: torch.dtype = torch.float32, device: str = DEVICE) -> Any:
    return quantized_model(kind, device, dtype)


def batch(model: Any) -> torch.Tensor:
    return torch.arange(96, device=model.device).view(6, 16) * 5 % 127 + 1


def attach(model: Any, name: str) -> Any:
    cfg = ad.VARIANTS[name].Config()
    required = ad.VARIANTS[name].calibration(cfg) is Calibration.required
    return ad.attach(model, cfg, seed=0, calibration=[batch(model)] if required else None)


def logits(model: Any, *, grad: bool) -> torch.Tensor:
    """By the hooks' two ways: training's, and evaluation's from kept factors."""
    with torch.set_grad_enabled(grad), ad.frozen(model):
        return model.train(grad)(batch(model)).logits.detach()


def optimizer(model: Any, **settings: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(ad.parameter_groups(model, lr=1e-2, weight_decay=0.1), **settings)


def backward(model: Any) -> None:
    ids = batch(model)
    model.train()(ids, labels=ids).loss.backward()


@torch.no_grad()
def move(handle: Any) -> None:
    """Puts every trainable tensor where nothing is zero by its initial value."""
    generator = torch.Generator().manual_seed(2)
    for n, p in handle.trainable().items():
        p.add_((0.05 * torch.randn(p.shape, generator=generator)).to(p.device))
        if n.endswith("lora_alpha"):
            p.clamp_(0.1, 0.9)


# -- every variant on every base ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ADAPTERS)
@each_kind
def test_life_of_an_adapter(name: str, kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Identity, five steps that move every tensor and nothing else, save, detach to the same bits, and load."""
    model = build(kind, dtype)
    bare = {grad: logits(model, grad=grad) for grad in (True, False)}
    base = base_sha256(model)
    handle = attach(model, name)
    for grad, expected in bare.items():
        change = (logits(model, grad=grad) - expected).float().square().mean().sqrt() / expected.float().std()
        assert change <= (0.1 if handle.variant.identity_atol else 0), grad
    trainable = handle.trainable()
    start = {n: p.detach().clone() for n, p in trainable.items()}
    assert all(p.dtype == torch.float32 and p.device.type == torch.device(DEVICE).type for p in start.values())
    steps = optimizer(model)
    for _ in range(5):
        backward(model)
        assert all(p.grad is None for n, p in model.named_parameters() if n not in start)
        steps.step()
        steps.zero_grad()
    assert [n for n, p in trainable.items() if torch.equal(p, start[n]) or not p.isfinite().all()] == []
    assert base_sha256(model) == base
    trained = logits(model, grad=False)
    assert not torch.equal(trained, bare[False])
    ad.save(model, tmp_path / "a.safetensors")
    ad.detach(model)
    for grad, expected in bare.items():
        assert torch.equal(logits(model, grad=grad), expected)
    with ad.load(model, tmp_path / "a.safetensors"):
        assert torch.equal(logits(model, grad=False), trained)


@needs_cuda
@pytest.mark.parametrize("name", FROM_THE_WEIGHT)
@pytest.mark.parametrize(("here", "there"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_an_adapter_moves_between_devices(name: str, here: str, there: str, tmp_path: Path) -> None:
    """A basis computed on one device is computed again on the other: loading checks its function by fp64 probes."""
    source = build(device=here)
    with attach(source, name) as handle:
        move(handle)
        ad.save(source, tmp_path / "a.safetensors")
        expected = logits(source, grad=False).cpu()
    target = build(device=there)
    with ad.load(target, tmp_path / "a.safetensors"):
        found = logits(target, grad=False).cpu()
    assert (found - expected).square().mean().sqrt() <= 1e-3 * expected.std()  # CUDA's sums are in another order


# -- caches ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("settings", [{"fused": True}, {"foreach": True}], ids=str)
def test_evaluation_sees_every_step(name: str, settings: dict[str, bool]) -> None:
    """Fused AdamW writes parameters without raising their version: grad-free caches must be dropped all the same."""
    model = build()
    with attach(model, name) as handle:
        move(handle)
        steps = optimizer(model, **settings)
        for _ in range(2):
            logits(model, grad=False)  # fills the caches
            backward(model)
            logits(model, grad=False)  # and again, between backward and step
            steps.step()
            steps.zero_grad()
            cached, fresh = logits(model, grad=False), logits(model, grad=True)
            error = (cached - fresh).square().mean().sqrt() / fresh.std()
            assert error <= 1e-4


# -- the training step -------------------------------------------------------------------------------------------------
def examples(count: int) -> list[Example]:
    return [Example(tuple(range(1, 9 + n)), 3) for n in range(count)]


class Stepper:
    """What the training loop holds: steps on the model's device, and checkpoints of them."""

    def __init__(self, job: Any, model: Any, handle: Any, folder: Path) -> None:
        self.job, self.model, self.folder, self.params = job, model, folder, handle.trainable()
        self.masters = Masters(model)
        self.optimizer, self.progress = optimizer(model), Progress()

    def step(self) -> torch.Tensor:
        step = self.progress.step
        self.progress.step += 1
        return optimizer_step(self.model, self.optimizer, self.masters, self.job, step, examples(4), 0)[0]

    def save(self) -> None:
        save_checkpoint(self.folder, self.params, self.optimizer, self.progress)

    def resume(self) -> int:
        self.progress = load_checkpoint(self.folder, self.params, self.optimizer)
        return self.progress.step


@pytest.fixture
def stepper(small_job: Callable[..., Any], tmp_path: Path) -> Callable[[Any, Any], Stepper]:
    """stepper(model, handle): the training loop's state, on the model's device."""
    import dataclasses

    job = dataclasses.replace(small_job("steps=40"), device=DEVICE)
    return lambda model, handle: Stepper(job, model, handle, tmp_path)


@needs_cuda
@pytest.mark.parametrize("name", ADAPTERS)
def test_a_step_never_waits_for_the_device(name: str, stepper: Callable[[Any, Any], Stepper]) -> None:
    """torch.cuda raises at any hidden synchronisation between the batch on the host and the optimizer's step."""
    model = build().train()
    with attach(model, name) as handle:
        loop = stepper(model, handle)
        losses = [loop.step()]  # optimizer state and kernels are made in the first
        torch.cuda.set_sync_debug_mode("error")
        try:
            losses.append(loop.step())
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(loss) for loss in losses)


def test_checkpoints_resume_on_the_device(stepper: Callable[[Any, Any], Stepper]) -> None:
    """Parameters and moments come back to the device they were on, and the next step is the same, bit for bit."""
    ends = []
    for resumed in (False, True):
        model = build().train()
        with attach(model, ADAPTERS[0]) as handle:
            loop = stepper(model, handle)
            if resumed:
                assert loop.resume() == 3
            else:
                for _ in range(3):
                    loop.step()
                loop.save()
            loop.step()
            ends.append({n: p.detach().clone() for n, p in handle.trainable().items()})
    assert all(torch.equal(p, ends[1][n]) for n, p in ends[0].items())


def test_batches_arrive_whole() -> None:
    """Copies from pinned memory are asynchronous; what the device computes with is what the host wrote."""
    ids, labels = collate(examples(6), 0, DEVICE)
    host, positions = collate(examples(6), 0, "cpu")
    assert ids.device.type == torch.device(DEVICE).type
    assert torch.equal(ids.cpu(), host)
    assert torch.equal(labels.cpu(), positions)


@needs_cuda
def test_a_gpu_is_leased_by_one_process(tmp_path: Path) -> None:
    """`cuda` is the device that the lease names; a second process waits for it until the first one is killed."""
    code = "from harness.device import one_gpu; one_gpu('cuda:0')\n"
    code += "import torch; print(torch.cuda.current_device(), flush=True); input()"
    alone = os.environ | {"TMPDIR": str(tmp_path)}
    words = [sys.executable, "-c", code]
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    first = subprocess.Popen(words, cwd=ROOT, env=alone, **pipes)
    assert first.stdout is not None
    assert first.stdout.readline() == "0\n"
    second = subprocess.Popen(words, cwd=ROOT, env=alone, **pipes)
    assert second.stdout is not None
    assert second.stderr is not None
    assert second.stderr.readline().startswith("GPU in use by another job")
    first.kill()
    assert second.stdout.readline() == "0\n"
    second.communicate("\n")
    first.communicate()


@pytest.mark.skipif(DEVICE == "cpu", reason="captures CUDA graphs")
@pytest.mark.parametrize("kind", ["none", "4bit"])
@pytest.mark.parametrize("name", ["lora", "antipasto_dplr", "dora"])
def test_cuda_graphs_give_the_same_texts(name: str, kind: str) -> None:
    model = build(kind)
    attach(model, name)
    asked = [row.tolist()[: 4 + 2 * n] for n, row in enumerate(batch(model))]
    settings: Any = {"eos": {0}, "pad": 1, "batch_size": 3, "max_new_tokens": 80, "complete": lambda tokens: False}
    ordinary = generate(model, asked, device=DEVICE, **settings)
    assert generate(model, asked, device=DEVICE, graphs=True, **settings) == ordinary
