"""One GPU to one process: a lock on this machine, so that jobs of several processes never share one by accident.

A process keeps its GPU to its end, since the base model stays on it between jobs; the kernel frees the lock of one that
dies. Locks are of one user: between users, and between machines, a scheduler such as SLURM decides.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from harness.errors import refuse


def usable_device(name: str) -> str:
    """The device torch is to use. Raises BadInput for one that is not there."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise refuse("device", "unknown device", got=name, expected="auto, cpu, cuda or cuda:<n>")
    if kind == "cuda" and not torch.cuda.is_available():
        raise refuse("device", "torch sees no CUDA device", got=name, remedy="Use device=cpu.")
    if index and int(index) >= torch.cuda.device_count():
        raise refuse("device", "no such GPU", got=name, expected=f"cuda:<n> with n < {torch.cuda.device_count()}")
    return name


_held: dict[str, FileLock] = {}


def one_gpu(device: str) -> None:
    """Makes `cuda` mean a GPU that this process alone holds, or waits for one; does nothing for `cpu`.

    device: `cuda` for any GPU that is visible, `cuda:<n>` for that one.
    """
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return
    import torch

    places = [int(index)] if index else list(range(torch.cuda.device_count()))
    names = [str(torch.cuda.get_device_properties(n).uuid) for n in places]  # the same in every process, unlike n
    torch.cuda.set_device(places[lease(names)])


def lease(names: list[str], folder: Path | None = None) -> int:
    """Place in `names` of one that this process holds from now on: one that it has, else the first free one.

    Waits where all are held by others, and says so once.
    """
    folder = folder or Path(tempfile.gettempdir()) / f"hookbench-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    waiting = False
    while True:
        for place, name in sorted(enumerate(names), key=lambda item: item[1] not in _held):
            held = _held.get(name) or FileLock(folder / f"{name}.lock")
            try:
                held.acquire(timeout=0)
            except Timeout:
                continue
            _held[name] = held
            return place
        if not waiting:
            whole = "the GPU is" if len(names) == 1 else f"all {len(names)} GPUs are"
            text = f"{whole} at other jobs; waiting for one (share_gpu=true would not)"
            print(text, file=sys.stderr, flush=True)
        waiting = True
        time.sleep(0.5)


def synchronize(device: str | torch.device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: str) -> str:
    """`NVIDIA …` or the processor's name."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else _processor()


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def gpu_count() -> int:
    """CUDA devices that the driver reports; asks it directly, since importing torch takes seconds."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0
