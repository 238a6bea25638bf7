"""Devices: which one a run may use, what it is called, and one GPU to one process.

A GPU is leased by a file lock on this machine. A process keeps its lease to its end, since the base model stays on the
GPU between jobs; the kernel frees the lock of a process that dies. Locks belong to one user: between users and between
machines, a scheduler such as SLURM decides. Imports torch only where a function needs it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from harness.errors import refuse

if TYPE_CHECKING:
    import torch

_held: dict[str, FileLock] = {}


def gpu_count() -> int:
    """CUDA devices that the driver reports; asks it directly, since importing torch takes seconds."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


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


def synchronize(device: str | torch.device) -> None:
    """Waits until the device has done its work; a CPU always has."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def choose_attention() -> None:
    """Turns off cuDNN's attention, which builds a plan for every new shape (55 ms to 1 s each; decoding has thousands).

    torch prefers it on Hopper; flash and memory-efficient attention take any length without one.
    """
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)


def attention_kernels() -> list[str]:
    """The kernels that scaled_dot_product_attention may choose from on CUDA."""
    from torch.backends import cuda

    enabled = {"flash": cuda.flash_sdp_enabled(), "efficient": cuda.mem_efficient_sdp_enabled()}
    enabled |= {"cudnn": cuda.cudnn_sdp_enabled(), "math": cuda.math_sdp_enabled()}
    return [name for name, on in enabled.items() if on]


def gpu_is_lost() -> bool:
    """Whether a CUDA error has left this process without its GPU: every later call fails too, until it ends."""
    import torch

    try:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def device_name(device: str) -> str:
    """`NVIDIA …` or the processor's name."""
    import torch

    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else _processor()


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


# -- one GPU to one process -------------------------------------------------------------------------------------------
def one_gpu(device: str) -> None:
    """Makes `cuda` mean a GPU that only this process holds; waits until there is one. Does nothing for `cpu`.

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
    """Locks one of `names` to the end of this process and returns its index: one already held, else the first free.

    Waits while other processes hold all of them, and says so once.
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
            busy = "GPU" if len(names) == 1 else f"all {len(names)} GPUs"
            print(f"{busy} in use by another job; waiting (share_gpu=true runs anyway)", file=sys.stderr, flush=True)
        waiting = True
        time.sleep(0.5)
