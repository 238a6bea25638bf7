"""What a run costs: peak memory per phase, multiply-accumulates per token, milliseconds per pass."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import adapters as ad
from adapters import problem
from harness.device import synchronize

GB = 1e9
ROOMIER = {  # phase → what leaves more memory
    "train": "Set a smaller train.micro_batch (it changes no result), or train.gradient_checkpointing=true.",
    "eval": "Set a smaller eval.batch_size.",
}


_first = True  # whether no meter has been created in this process


class MemoryMeter:
    """Peak memory of named phases: allocated and reserved GB on CUDA, peak resident set (RSS) GB on CPU.

    A resident set holds what earlier runs of the process left behind, so only the first meter of a process reads it.
    A phase that finds no memory left on the GPU says what would leave more.
    """

    def __init__(self, device: str) -> None:
        global _first
        self.fresh, _first = _first, False
        self.cuda = torch.device(device).type == "cuda"
        self.device = device
        self.peaks: dict[str, dict[str, float]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        if self.cuda:
            gc.collect()
            torch.cuda.empty_cache()  # else what an earlier phase reserved would count here
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            reset_peak_rss()
        try:
            yield
        except torch.OutOfMemoryError as error:
            words = str(error).splitlines()[0].partition(" GPU ")[0].rstrip(".")  # not what each process holds
            raise torch.OutOfMemoryError(problem(name, words, remedy=ROOMIER.get(name, ""))) from error
        finally:
            self.peaks[name] = self._read()

    def _read(self) -> dict[str, float]:
        if not self.cuda:
            return {"peak_rss_gb": peak_rss_bytes() / GB} if self.fresh else {}
        allocated = torch.cuda.max_memory_allocated(self.device) / GB
        return {"peak_allocated_gb": allocated, "peak_reserved_gb": torch.cuda.max_memory_reserved(self.device) / GB}


def reset_peak_rss() -> None:
    """Returns freed memory to the kernel and makes it forget the process's peak resident set (proc(5)); Linux only."""
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return  # elsewhere the figure is the peak since the process began


def peak_rss_bytes() -> int:
    """VmHWM, in bytes; 0 where there is no /proc."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except OSError:
        return 0


@torch.no_grad()
def macs_per_token(model: Any, device: str, tokens: int = 64) -> float:
    """Multiply-accumulates of one grad-free forward per token, matrix products only (half of counted FLOPs)."""
    ids = torch.zeros(1, tokens, dtype=torch.long, device=device)
    with ad.frozen(model):
        model(input_ids=ids, use_cache=False)  # what does not depend on the input is paid for once, not per token
        with FlopCounterMode(display=False) as counter:
            model(input_ids=ids, use_cache=False)
    return float(counter.get_total_flops()) / 2 / tokens


def pass_times(loss: Callable[[], Tensor], device: str, repeats: int = 3) -> dict[str, float]:
    """Median milliseconds of forward and backward of `loss()` on one batch; gradients are left behind.

    Empty where the device has no memory left for it: a figure of cost must not end a run that is finished otherwise.
    """
    times = []
    try:
        for _ in range(repeats + 1):  # the first is a warm-up
            began = _now(device)
            value = loss()
            middle = _now(device)
            value.backward()
            times.append((middle - began, _now(device) - middle))
    except torch.OutOfMemoryError:
        return {}
    forward, backward = (1000 * statistics.median(part) for part in zip(*times[1:], strict=True))
    return {"forward_ms": forward, "backward_ms": backward}


def _now(device: str) -> float:
    """Seconds, when the device has done all that it was given."""
    synchronize(device)
    return time.perf_counter()
