"""Where a number comes from: code, versions, machine."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from harness.schema import ROOT

PACKAGES = ("torch", "transformers", "tokenizers", "bitsandbytes", "safetensors", "hydra-core", "datasets", "numpy")


def provenance(device: str) -> dict[str, Any]:
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "argv": sys.argv[1:],
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "device": device_name(device),
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
    }


def device_name(device: str) -> str:
    """`NVIDIA …` or the processor's name."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else _processor()


def _git(*args: str) -> str | None:
    """Output of git in the repository; None outside a checkout."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
