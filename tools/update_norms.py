"""How far an adapter moved the weights: per layer, from a finished run's adapter and its base model.

python -m tools.update_norms
    experiment=arrow_vs_dplr     of conf/study.yaml: its finished runs with an adapter.safetensors below runs_dir
    runs_dir=runs
    out=reports/update_norms.json

Adds to `out`, by run id: `update`, the largest singular value of ΔW; `share`, ‖ΔW‖/‖W‖ (Frobenius); and `core`, the
largest singular value of what is trained inside a frozen basis (a block M, or BA). A list each, in the layers' order.
Runs that are there already, with the same science, are kept. Seconds per run, in one thread.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import torch

from adapters import attachment
from adapters._weights import dense_weight
from harness.cli.arguments import parse
from harness.files import write_text
from harness.inputs.fingerprints import Fingerprinter
from harness.paths import under_root
from harness.records.plan import plan
from harness.reevaluate import open_run
from tools.study import jobs_of


@dataclass
class Arguments:
    experiment: str = "arrow_vs_dplr"
    runs_dir: str = "runs"
    out: str = "reports/update_norms.json"


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    torch.set_num_threads(1)
    out, fingerprinter = under_root(args.out), Fingerprinter()
    by_run: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    for job in jobs_of(args.experiment, args.runs_dir):
        p = plan(job, fingerprinter)
        finished = p.action == "skip" and (p.folder / "adapter.safetensors").is_file()
        if finished and by_run.get(p.id, {}).get("science_hash") != p.science_hash:
            by_run[p.id] = {"science_hash": p.science_hash} | norms_of_run(p.id, args.runs_dir)
            write_text(out, json.dumps(dict(sorted(by_run.items())), indent=1) + "\n")
            print(p.id, flush=True)
    print(f"{len(by_run)} runs in {args.out}")


def norms_of_run(run_id: str, runs_dir: str) -> dict[str, list[float]]:
    """The norms of a finished run. Raises BadInput where its inputs have changed or it has no adapter."""
    with open_run(run_id, runs_dir, "test", device="cpu").adapted() as (_, model):
        return norms(model)


def norms(model: Any) -> dict[str, list[float]]:
    """Of every adapted layer of a model with an adapter that is linear in its input.

    ΔW is what the layer adds to its base when it reads the identity, so no variant's formula is needed.
    """
    handle = attachment(model)
    out: dict[str, list[float]] = {"update": [], "share": [], "core": []}
    for name, site in handle.sites.items():
        layer: Any = handle.model.get_submodule(name)
        W = dense_weight(layer)
        eye = torch.eye(W.shape[1], dtype=W.dtype)
        with torch.no_grad():
            adapted = layer(eye).double()
            with handle.disabled():
                delta = (adapted - layer(eye).double()).T
            out["update"].append(_largest(delta))
            out["share"].append(_rounded(delta.norm() / W.double().norm()))
            if (core := _core(site)) is not None:
                out["core"].append(_largest(core))
    return out


def _core(site: Any) -> Any:
    """What is trained between the frozen bases of a layer: M, or BA; None where there is no such matrix."""
    tensors = {name.removeprefix("lora_"): p.detach().double() for name, p in site.parameters().items()}
    if "M" in tensors:
        return tensors["M"]
    return tensors["B"] @ tensors["A"] if {"A", "B"} <= tensors.keys() else None


def _largest(matrix: Any) -> float:
    return _rounded(torch.linalg.matrix_norm(matrix, 2))


def _rounded(value: Any) -> float:
    return float(f"{float(value):.6g}")


if __name__ == "__main__":
    main(sys.argv[1:])
