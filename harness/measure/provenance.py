"""Where a number comes from: code, versions, machine."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from harness.device import attention_kernels, device_name
from harness.paths import ROOT

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
        "attention": attention_kernels(),
        "threads": torch.get_num_threads(),
    }


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
