"""Every variant on a real model: attach, perturb, train, save, load in a fresh process, compare: `make probe`.

python -m tools.probe_model
    model=tiny        any option of conf/model
    variants=all      or <name>,<name>
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
STEPS = 3


@dataclass
class Arguments:
    model: str = "tiny"
    variants: list[str] = field(default_factory=lambda: ["all"])
    reload: str = ""  # internal: folder of saved adapters that a fresh process is to load


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    from harness.cli.quiet import quiet
    from harness.inputs.base_model import loaded

    quiet()
    tokenizer, model = loaded(job_of(["benchmark=tiny", f"model={args.model}", "model.dtype=float32", "device=cpu"]))
    ids = tokenizer((ROOT / TEXT).read_text(), return_tensors="pt")["input_ids"][:, :96]
    if args.reload:
        _reload(model, ids, Path(args.reload))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: _train(name, model, ids, Path(folder)) for name in variants(args.variants)}
        words = [sys.executable, "-m", "tools.probe_model", f"model={args.model}", f"reload={folder}"]
        subprocess.run(words, cwd=ROOT, check=True)
        reloaded = json.loads((Path(folder) / "reloaded.json").read_text())
    print(f"{'variant':18}{'attach, s':>10}{'identity error':>16}{'loss':>18}{'file, kB':>11}{'reload error':>14}")
    for name, row in rows.items():
        print(f"{name:18}{row}{reloaded[name]:>14.1e}")


def _train(name: str, model: Any, ids: Any, folder: Path) -> str:
    """Trains and saves one variant. Returns its row of the table."""
    import torch
    from safetensors.torch import save_file

    import adapters as ad

    with torch.no_grad():
        bare = model(ids).logits
    cfg, batches = ad.VARIANTS[name].Config(), calibration(name, ids)
    seconds, handle = timed(lambda: ad.attach(model, cfg, calibration=batches, seed=0, cache_dir=BASES))
    with handle:
        with torch.no_grad():
            identity = float((model(ids).logits - bare).abs().max())
            perturb(handle.trainable().values())
        losses = []
        optimizer = torch.optim.AdamW(ad.parameter_groups(model, lr=1e-3)) if handle.trainable() else None
        for _ in range(STEPS + 1):
            loss = model(ids, labels=ids).loss
            losses.append(loss.item())
            if optimizer is not None and len(losses) <= STEPS:
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        size = ad.save(model, folder / f"{name}.safetensors")
        with torch.no_grad():
            save_file({"logits": model(ids).logits.contiguous()}, folder / f"{name}.logits")
    loss_text = f"{losses[0]:.3f} -> {losses[-1]:.3f}"
    return f"{seconds:>10.1f}{identity:>16.1e}{loss_text:>18}{size / 1000:>11,.1f}"


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
