"""Devices: which one a run uses, its name, and one GPU per process.

A file lock on this machine leases a GPU. A process keeps its lease until it ends, since the base model stays on the GPU
between jobs; the kernel frees the lock of a process that dies. Locks are per user: between users and machines, use a
scheduler such as SLURM. Imports torch only where a function needs it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from harness.errors import reason_of, refuse
from harness.files import acquire

if TYPE_CHECKING:
    import torch

_held: dict[str, FileLock] = {}


def _driver() -> ctypes.CDLL | None:
    """The CUDA driver, if it works. Importing torch would take seconds, and torch claims memory on the GPU."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return None if cuda.cuInit(0) else cuda


def gpu_count() -> int:
    """CUDA devices that the driver reports."""
    cuda, count = _driver(), ctypes.c_int(0)
    return 0 if cuda is None or cuda.cuDeviceGetCount(ctypes.byref(count)) else count.value


def memory_of(device: str) -> int | None:
    """Bytes of the GPU or of this machine; None if unknown."""
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cuda, handle, size = _driver(), ctypes.c_int(0), ctypes.c_size_t(0)
    if cuda is None or cuda.cuDeviceGet(ctypes.byref(handle), int(index or 0)):
        return None
    return None if cuda.cuDeviceTotalMem_v2(ctypes.byref(size), handle) else size.value


def usable_device(name: str) -> str:
    """The device for torch. Raises BadInput for a device that is missing or that torch cannot use."""
    import torch

    if name == "auto":
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        if torch.cuda.is_available() or hidden or not gpu_count():
            return "cuda" if torch.cuda.is_available() else "cpu"
        remedy = "Install a torch with CUDA for this driver, or use device=cpu."
        raise refuse("device", "this torch cannot use the GPU", got=name, remedy=remedy)
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise refuse("device", "unknown device", got=name, expected="auto, cpu, cuda or cuda:<n>")
    if kind == "cuda" and not torch.cuda.is_available():
        raise refuse("device", "torch sees no CUDA device", got=name, remedy="Use device=cpu.")
    if index and int(index) >= torch.cuda.device_count():
        raise refuse("device", "no such GPU", got=name, expected=f"cuda:<n> with n < {torch.cuda.device_count()}")
    return name


def synchronize(device: str | torch.device) -> None:
    """Waits until the device has finished its work. Does nothing on a CPU."""
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


def one_gpu(device: str) -> None:
    """Makes `cuda` a GPU that only this process holds, waiting for one if needed. Does nothing for `cpu`.

    device: `cuda` for any visible GPU, `cuda:<n>` for that one.
    """
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return
    import torch

    places = [int(index)] if index else list(range(torch.cuda.device_count()))
    names = [str(torch.cuda.get_device_properties(n).uuid) for n in places]  # the same in every process, unlike n
    torch.cuda.set_device(places[lease(names)])


def lease(names: list[str], folder: Path | None = None) -> int:
    """Locks one of `names` until this process ends. Returns its index: one it holds already, else the first free.

    Waits while other processes hold all of them, and says so once. Raises BadInput if locks do not work here.
    """
    folder = folder or Path(tempfile.gettempdir()) / f"hookbench-gpus-{os.getuid()}"
    locks = [_held.get(name) or FileLock(folder / f"{name}.lock") for name in names]
    busy = "GPU" if len(names) == 1 else f"all {len(names)} GPUs"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        held_first = sorted(locks, key=lambda lock: not lock.is_locked)
        lock = acquire(held_first, f"{busy} in use by another job; waiting (share_gpu=true runs anyway)")
    except (OSError, NotImplementedError) as error:  # another user's folder, a dangling link, no file locks
        what = f"no lock for the GPU ({reason_of(error)})"
        remedy = "Set TMPDIR to a local folder of your own, or share_gpu=true."
        raise refuse("device", what, got=str(folder), remedy=remedy) from None
    place = locks.index(lock)
    _held[names[place]] = lock
    return place
