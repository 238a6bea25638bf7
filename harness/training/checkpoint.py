"""Training checkpoints: parameters, optimizer moments and the loop's numbers, in one file with a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters import atomic_file
from harness.errors import reason_of
from harness.files import write_text

Params = dict[str, torch.nn.Parameter]
STATE = "checkpoint/state.safetensors"
BYTES_PER_STEP = 10_000_000  # that checkpoints may write, averaged over the steps between two of them


class DamagedCheckpointError(Exception):
    """The file is not what was saved."""


@dataclass
class Progress:
    """How far training has come. losses: mean nats per label token of each step's batch, before the step.

    tokens: real tokens in all batches (prompt and response, no padding).
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """A record's `train`; first and last: a tenth of the run, at most 20 steps."""
        ends = max(1, min(20, len(self.losses) // 10))
        return {
            "loss_first": sum(self.losses[:ends]) / ends,
            "loss_last": sum(self.losses[-ends:]) / ends,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "tokens_per_s": self.tokens / self.seconds,
        }


def checkpoint_interval(params: Params, every: int) -> int:
    """Steps from one checkpoint to the next: `every`, or more where parameters and AdamW's moments are large.

    `full` on a model of 0.6B parameters writes 7 GB: every 700 steps, not every 100.
    """
    size = 3 * sum(p.numel() * p.element_size() for p in params.values())
    return max(every, size // BYTES_PER_STEP)


def save_checkpoint(folder: Path, params: Params, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Writes `folder`/checkpoint/state.safetensors. One file: a kill between two would pair two different steps."""
    place = folder / STATE
    place.parent.mkdir(exist_ok=True)
    tensors = {f"param.{name}": p.detach().cpu().contiguous() for name, p in params.items()}
    for name, p in params.items():
        for key, value in optimizer.state.get(p, {}).items():
            tensors[f"{key}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    numbers = json.dumps(asdict(progress))
    with atomic_file(place) as temporary:
        save_file(tensors, temporary, metadata={"progress": numbers, "sha256": _digest(tensors, numbers)})


def resume(folder: Path, params: Params, optimizer: torch.optim.Optimizer, say: Callable[[str], None]) -> Progress:
    """Restores the last checkpoint and returns its progress; a damaged one is named and left out."""
    try:
        return load_checkpoint(folder, params, optimizer)
    except DamagedCheckpointError as error:
        say(f"the checkpoint is damaged ({error}); training starts again")
        remove_checkpoint(folder)
        return Progress()


def load_checkpoint(folder: Path, params: Params, optimizer: torch.optim.Optimizer) -> Progress:
    """Restores what the last checkpoint holds and trims metrics.jsonl to it; a new Progress where there is none.

    Raises DamagedCheckpointError, and changes nothing, where the file is not what was saved.
    """
    path, metrics = folder / STATE, folder / "metrics.jsonl"
    if not path.exists():
        metrics.unlink(missing_ok=True)
        return Progress()
    tensors, progress = _read(path)
    states: dict[str, dict[str, Tensor]] = {}  # by parameter: its value and what the optimizer keeps of it
    for key, tensor in tensors.items():
        kind, _, name = key.partition(".")
        states.setdefault(name, {})[kind] = tensor
    if {n: p.shape for n, p in params.items()} != {n: s["param"].shape for n, s in states.items() if "param" in s}:
        raise DamagedCheckpointError("it holds other tensors")
    with torch.no_grad():
        for name, p in params.items():
            p.copy_(states[name].pop("param"))
            optimizer.state[p] = {k: v if k == "step" else v.to(p.device) for k, v in states[name].items()}
    lines = metrics.read_text(errors="replace").splitlines(keepends=True) if metrics.exists() else []
    write_text(metrics, "".join(lines[: progress.step]))
    return progress


def remove_checkpoint(folder: Path) -> None:
    """Removes the checkpoint and the losses that led to it."""
    (folder / STATE).unlink(missing_ok=True)
    (folder / "metrics.jsonl").unlink(missing_ok=True)


def _read(path: Path) -> tuple[dict[str, Tensor], Progress]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
        if _digest(tensors, metadata["progress"]) != metadata["sha256"]:
            raise DamagedCheckpointError("its checksum is wrong")
        return tensors, Progress(**json.loads(metadata["progress"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpointError(reason_of(error)) from None


def _digest(tensors: dict[str, Tensor], numbers: str) -> str:
    digest = hashlib.sha256(numbers.encode())
    for name in sorted(tensors):
        t = tensors[name]
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        digest.update(t.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
