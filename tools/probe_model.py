"""Every variant on a real model: attach, perturb, train, save, load in a fresh process, compare: `make probe`.

python -m tools.probe_model
    model=tiny        any option of conf/model, or
    id=<name>         a hub id or a folder
    variants=all      or <name>,<name>
    steps=3           optimizer steps
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.cli.arguments import parse
from harness.paths import ROOT
from tools._shared import calibration, job_of, perturb, timed, variants

TEXT = "harness/texts/general.txt"
BASES = ROOT / ".cache" / "bases"


@dataclass
class Arguments:
    model: str = "tiny"
    id: str = ""
    variants: list[str] = field(default_factory=lambda: ["all"])
    steps: int = 3
    reload: str = ""  # internal: folder of saved adapters that a fresh process is to load


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    from harness.cli.quiet import quiet

    quiet()
    tokenizer, model = _load(args)
    ids = tokenizer((ROOT / TEXT).read_text(), return_tensors="pt")["input_ids"][:, :96]
    if args.reload:
        _reload(model, ids, Path(args.reload))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = [_train(name, model, ids, Path(folder), args.steps) for name in variants(args.variants)]
        words = [f"model={args.model}", f"id={args.id}", f"reload={folder}"]
        if code := subprocess.run([sys.executable, "-m", "tools.probe_model", *words], cwd=ROOT).returncode:
            raise SystemExit(f"probe_model: the fresh process ended with code {code}; its message is above")
        reloaded = json.loads((Path(folder) / "reloaded.json").read_text())
    print(f"{'variant':18}{'attach, s':>10}{'identity error':>16}{'loss':>18}{'file, kB':>11}{'reload error':>14}")
    for row in rows:
        loss = f"{row['before']:.3f} -> {row['after']:.3f}"
        cells = f"{row['attach_seconds']:>10.1f}{row['identity']:>16.1e}{loss:>18}{row['bytes'] / 1000:>11,.1f}"
        print(f"{row['variant']:18}{cells}{reloaded[row['variant']]:>14.1e}")


def _load(args: Arguments) -> tuple[Any, Any]:
    from harness.inputs.base_model import load_model, load_tokenizer

    overrides = ["benchmark=tiny", "model=hub", f"model.id={args.id}"] if args.id else [f"model={args.model}"]
    job = job_of(["benchmark=tiny", *overrides, "model.dtype=float32"])
    return load_tokenizer(job.model), load_model(job)


def _train(name: str, model: Any, ids: Any, folder: Path, steps: int) -> dict[str, Any]:
    import torch
    from safetensors.torch import save_file

    import adapters as ad

    with torch.no_grad():
        bare = model(ids).logits
    cfg, batches = ad.VARIANTS[name].Config(), calibration(name, ids)
    seconds, handle = timed(lambda: ad.attach(model, cfg, calibration=batches, seed=0, cache_dir=BASES))
    with handle:
        row: dict[str, Any] = {"variant": name, "attach_seconds": seconds}
        with torch.no_grad():
            row["identity"] = float((model(ids).logits - bare).abs().max())
            perturb(handle.trainable().values())
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
        with ad.load(model, file, cache_dir=BASES), torch.no_grad():
            expected = load_file(folder / f"{file.stem}.logits")["logits"]
            errors[file.stem] = float((model(ids).logits - expected).abs().max())
    (folder / "reloaded.json").write_text(json.dumps(errors))


if __name__ == "__main__":
    main(sys.argv[1:])
