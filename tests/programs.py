"""train.py as its users run it, what it leaves behind, and the form of its errors."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from safetensors import safe_open

from harness.paths import ROOT

# <where>: <what>[, got <value!r>][; expected <set or range>].[ <what to do>]
FORM = re.compile(r"[^:\n]+(:\d+)?: [^\n]+?(, got [^\n]+?)?(; expected [^\n]+?)?\.( [^\n]+\.?)?")
BROKEN = '{"question": "1+1?", "answer": "#### 2"}\n{"question": "2+2?", "answ\n'  # found when it is read, not before


def with_words(words: list[str], *more: str) -> list[str]:
    """Later words win."""
    return list({w.lstrip("+~").split("=", 1)[0]: w for w in [*words, *more]}.values())


def train(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "train.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def records(folder: Path) -> dict[str, dict[str, Any]]:
    return {p.parent.name: json.loads(p.read_text()) for p in folder.glob("*/result.json")}


def start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """Typed in a folder that is not the repository, which started processes must find."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "-m", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
    )


def process_of(folder: Path) -> psutil.Process | None:
    """The process that holds a file below the folder open: its lock, for as long as a run is at work."""
    for process in psutil.process_iter():
        try:
            if any(f.path.startswith(str(folder)) for f in process.open_files()):
                return process
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return None


def results(folder: Path, name: str) -> dict[str, Any]:
    """What must not depend on how often a run was killed."""
    record = json.loads((folder / name / "result.json").read_text())
    kept = {k: record[k] for k in ("status", "valid", "test", "forgetting", "health", "adapter_file_bytes")}
    kept |= {k: record["train"][k] for k in ("loss_first", "loss_last", "tokens")}
    kept["losses"] = [json.loads(x)["loss"] for x in (folder / name / "metrics.jsonl").read_text().splitlines()]
    with safe_open(folder / name / "adapter.safetensors", framework="np") as file:
        # safetensors writes the entries of its metadata in an order of its own, another one in every process.
        kept["adapter"] = (file.metadata(), {k: file.get_tensor(k).tobytes() for k in sorted(file.keys())})
    return kept
