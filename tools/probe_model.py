"""Every variant on a real model: attach, perturb, train, save, load in a fresh process, compare: `make probe`.

python -m tools.probe_model
    model=tiny        any option of conf/model
    variants=all      or <name>,<name>
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import adapters as ad
from harness.cli.arguments import parse
from harness.cli.quiet import quiet
from harness.inputs.base_model import loaded
from harness.paths import ROOT
from tools._shared import calibration, job_of, perturb, variants

TEXT = ROOT / "harness" / "texts" / "general.txt"
BASES = ROOT / ".cache" / "bases"
STEPS = 3


@dataclass
class Arguments:
    model: str = "tiny"
    variants: list[str] = field(default_factory=lambda: ["all"])


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    names = variants(args.variants)
    model, ids = model_and_ids(args.model)
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: train(name, model, ids, Path(folder)) for name in names}
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            errors = fresh.submit(reload_errors, args.model, Path(folder)).result()
    print(f"{'variant':18}{'attach, s':>10}{'identity error':>16}{'loss':>18}{'file, kB':>11}{'reload error':>14}")
    for name, row in rows.items():
        print(f"{name:18}{row}{errors[name]:>14.1e}")


def model_and_ids(name: str) -> tuple[Any, Any]:
    """The model in fp32, and the first tokens of a text."""
    quiet()
    tokenizer, model = loaded(job_of(["benchmark=tiny", f"model={name}", "model.dtype=float32", "device=cpu"]))
    return model, tokenizer(TEXT.read_text(), return_tensors="pt")["input_ids"][:, :96]


def train(name: str, model: Any, ids: Any, folder: Path) -> str:
    """Trains and saves one variant. Returns its row of the table."""
    bare = logits(model, ids)
    batches, start = calibration(name, ids), time.perf_counter()
    with ad.attach(model, ad.VARIANTS[name].Config(), calibration=batches, seed=0, cache_dir=BASES) as handle:
        seconds = time.perf_counter() - start
        identity = float((logits(model, ids) - bare).abs().max())
        perturb(handle.trainable().values())
        first = float(model(ids, labels=ids).loss)
        if handle.trainable():
            optimizer = torch.optim.AdamW(ad.parameter_groups(model, lr=1e-3))
            for _ in range(STEPS):
                model(ids, labels=ids).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        loss = f"{first:.3f} -> {float(model(ids, labels=ids).loss):.3f}"
        size = ad.save(model, folder / f"{name}.safetensors")
        save_file({"logits": logits(model, ids)}, folder / f"{name}.logits")
    return f"{seconds:>10.1f}{identity:>16.1e}{loss:>18}{size / 1000:>11,.1f}"


def reload_errors(model_name: str, folder: Path) -> dict[str, float]:
    """Variant → largest difference of logits between the process that trained and this one."""
    model, ids = model_and_ids(model_name)
    errors = {}
    for file in sorted(folder.glob("*.safetensors")):
        with ad.load(model, file, cache_dir=BASES):
            trained = load_file(folder / f"{file.stem}.logits")["logits"]
            errors[file.stem] = float((logits(model, ids) - trained).abs().max())
    return errors


@torch.no_grad()
def logits(model: Any, ids: Any) -> Any:
    return model(ids).logits.contiguous()


if __name__ == "__main__":
    main(sys.argv[1:])
