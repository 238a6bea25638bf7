"""One GPU to one process: a lock on this machine, so that jobs of several processes never share one by accident.

A process keeps its GPU to its end, since the base model stays on it between jobs; the kernel frees the lock of one that
dies. Locks are of one user: between users, and between machines, a scheduler such as SLURM decides.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

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
