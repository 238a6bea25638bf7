"""What a run does where the GPU has no memory left, told by what torch raises then: OutOfMemoryError."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from harness.inputs.base_model import forget_models
from harness.measure.cost import MemoryMeter
from harness.run import run

WORDS = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"


@pytest.mark.parametrize(("place", "phase"), [("train", "train"), ("predict", "eval")])
def test_a_run_without_memory_says_what_leaves_more(place: str, phase: str, small_job: Any, monkeypatch: Any) -> None:
    """The message names the keys to set; the next job in the process finds the failed one's model freed."""
    models = []

    def full(model: Any, *_: Any) -> Any:
        models.append(weakref.ref(model))
        raise torch.OutOfMemoryError(WORDS)

    with monkeypatch.context() as m:
        m.setattr(f"harness.run.{place}", full)
        with pytest.raises(torch.OutOfMemoryError) as raised:
            run(small_job(), in_sweep=True)
    message = str(raised.value)
    assert message.startswith(f"{phase}: CUDA out of memory. Tried to allocate 2.00 GiB. Set a smaller")
    keys = {"train": ("train.micro_batch", "train.gradient_checkpointing=true"), "eval": ("eval.batch_size",)}
    assert all(key in message for key in keys[phase])
    del raised
    gc.disable()  # cycles are not left to chance
    try:
        forget_models()
        assert models[0]() is None
    finally:
        gc.enable()


def test_passes_are_timed_as_they_were_trained(small_job: Any, monkeypatch: Any) -> None:
    """With gradient checkpointing where training had it; without memory for them the run is finished all the same."""
    from harness.measure.meters import label_loss_sum

    seen: list[tuple[bool, bool]] = []

    def spy(model: Any, *batch: Any) -> Any:
        if torch.is_grad_enabled():
            seen.append((model.training, model.is_gradient_checkpointing))
        return label_loss_sum(model, *batch)

    def full(model: Any, *batch: Any) -> Any:
        spy(model, *batch)
        raise torch.OutOfMemoryError(WORDS)

    monkeypatch.setattr("harness.measure.meters.label_loss_sum", spy)
    for saving in (True, False):
        seen.clear()
        record = run(small_job(f"train.gradient_checkpointing={saving}", f"seed={int(saving)}"))
        assert set(seen) == {(True, saving)}
        assert min(record["cost"]["forward_ms"], record["cost"]["backward_ms"]) > 0
    monkeypatch.setattr("harness.measure.meters.label_loss_sum", full)
    record = run(small_job("seed=2"))
    assert record["status"] == "done"
    assert record["cost"].keys() == {"attach_seconds", "added_macs_per_token"}


def test_a_phase_starts_from_an_emptied_cache(monkeypatch: Any) -> None:
    """Garbage first, then the cache, then the peak: in another order an earlier phase's memory would count."""
    calls: list[str] = []
    monkeypatch.setattr("gc.collect", lambda: calls.append("collect"))
    for name in ("empty_cache", "reset_peak_memory_stats", "max_memory_allocated", "max_memory_reserved"):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *_, name=name: calls.append(name) or 3 * 10**9)
    meter = MemoryMeter("cuda:1")
    with meter.phase("train"):
        calls.append("work")
    order = ["collect", "empty_cache", "reset_peak_memory_stats", "work"]
    assert calls == [*order, "max_memory_allocated", "max_memory_reserved"]
    assert meter.peaks == {"train": {"peak_allocated_gb": 3.0, "peak_reserved_gb": 3.0}}
