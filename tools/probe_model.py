"""Every variant on a real model: attach, perturb, train a few steps, save, load in a fresh process, compare.

python -m tools.probe_model model=smollm2_135m      any option of conf/model, or
python -m tools.probe_model id=<hub id or folder>
    variants=<name>,<name>   only these
    steps=3                  optimizer steps
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.paths import ROOT

NOISE = 0.02  # standard deviation of the perturbation, so that no tensor keeps its special initial value
TEXT = "harness/texts/general.txt"


@dataclass
class Arguments:
    model: str = "tiny"
    id: str = ""
    variants: str = ""
    steps: int = 3
    reload: str = ""  # internal: folder of saved adapters that a fresh process is to load


def main(argv: list[str]) -> None:
    from harness.cli.arguments import parse

    args = parse(Arguments, argv, __doc__ or "")
    from harness.cli.quiet import quiet

    quiet()
    tokenizer, model = _load(args)
    ids = tokenizer((ROOT / TEXT).read_text(), return_tensors="pt")["input_ids"][:, :96]
    if args.reload:
        _reload(model, ids, Path(args.reload))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = _train_all(args, model, ids, Path(folder))
        words = [f"model={args.model}", f"id={args.id}", f"reload={folder}"]
        done = subprocess.run([sys.executable, "-m", "tools.probe_model", *words], cwd=ROOT)
        if done.returncode:
            raise SystemExit("the fresh process failed; its message is above")
        reloaded = json.loads((Path(folder) / "reloaded.json").read_text())
    print(f"{'variant':18}{'attach, s':>10}{'identity error':>16}{'loss':>18}{'file, kB':>11}{'reload error':>14}")
    for row in rows:
        loss = f"{row['before']:.3f} -> {row['after']:.3f}"
        cells = f"{row['attach_seconds']:>10.1f}{row['identity']:>16.1e}{loss:>18}{row['bytes'] / 1000:>11,.1f}"
        print(f"{row['variant']:18}{cells}{reloaded[row['variant']]:>14.1e}")


def _load(args: Arguments) -> tuple[Any, Any]:
    from harness.config.compose import compositions
    from harness.config.schema import register
    from harness.config.validate import job_from
    from harness.inputs.base_model import load_model, load_tokenizer

    register()
    overrides = ["benchmark=tiny", "model=hub", f"model.id={args.id}"] if args.id else [f"model={args.model}"]
    job = job_from(next(compositions(["benchmark=tiny", *overrides, "model.dtype=float32"], multirun=False)))
    return load_tokenizer(job.model), load_model(job)


def _train_all(args: Arguments, model: Any, ids: Any, folder: Path) -> list[dict[str, Any]]:
    import adapters as ad

    names = args.variants.split(",") if args.variants else [n for n, v in ad.VARIANTS.items() if not v.trains_base]
    return [_train_one(name, model, ids, folder, args.steps) for name in names]


def _train_one(name: str, model: Any, ids: Any, folder: Path, steps: int) -> dict[str, Any]:
    import torch
    from safetensors.torch import save_file

    import adapters as ad

    with torch.no_grad():
        bare = model(ids).logits
    cfg = ad.VARIANTS[name].Config()
    start = time.perf_counter()
    need = [ids] if ad.VARIANTS[name].calibration(cfg).value == "required" else None
    with ad.attach(model, cfg, calibration=need, seed=0, cache_dir=ROOT / ".cache" / "bases") as handle:
        row: dict[str, Any] = {"variant": name, "attach_seconds": time.perf_counter() - start}
        with torch.no_grad():
            row["identity"] = float((model(ids).logits - bare).abs().max())
            generator = torch.Generator().manual_seed(0)
            for p in handle.trainable().values():
                p.add_(NOISE * torch.randn(p.shape, generator=generator))
        losses = []
        optimizer = torch.optim.AdamW(ad.parameter_groups(model, lr=1e-3)) if handle.trainable() else None
        for _ in range(steps + 1):
            loss = model(ids, labels=ids).loss
            losses.append(loss.item())
            if optimizer is not None and len(losses) <= steps:
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        row |= {"before": losses[0], "after": losses[-1]}
        row["bytes"] = ad.save(model, folder / f"{name}.safetensors")
        with torch.no_grad():
            save_file({"logits": model(ids).logits.contiguous()}, folder / f"{name}.logits")
    return row


def _reload(model: Any, ids: Any, folder: Path) -> None:
    """Largest difference of logits between the process that trained and this one, per variant."""
    import torch
    from safetensors.torch import load_file

    import adapters as ad

    errors = {}
    for file in sorted(folder.glob("*.safetensors")):
        with ad.load(model, file, cache_dir=ROOT / ".cache" / "bases"), torch.no_grad():
            expected = load_file(folder / f"{file.stem}.logits")["logits"]
            errors[file.stem] = float((model(ids).logits - expected).abs().max())
    (folder / "reloaded.json").write_text(json.dumps(errors))


if __name__ == "__main__":
    main(sys.argv[1:])
