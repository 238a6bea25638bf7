"""TODO harness.records.ids"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import adapters
from adapters._checkpoint import config_fields
from harness.config.compose import default_job
from harness.config.job import Job
from harness.hashing import sha256
from harness.inputs.fingerprints import identities, text_identity
from harness.scoring import SCORER_VERSION

AXES = ("r", "lora_rank")  # adapter fields with a place of their own in the run id


# -- identity ----------------------------------------------------------------------------------------------------------
def science(job: Job, *, commits: bool = True) -> dict[str, Any]:
    """Everything that can change the result, flat. Devices, logging and file locations are not in it; contents are.

    What comes from the hub is there by commit, or with commits=False by the revision as typed, which asks nobody.
    """
    flat: dict[str, Any] = {
        "benchmark": job.benchmark,
        **identities(job, commits=commits),
        "model.dtype": job.model.dtype,
        "quantization": job.quantization,
        "variant": job.variant,
        "scorer_version": SCORER_VERSION,
        "forgetting_text": text_identity(job.forgetting_text),
    }
    names = ["prompt", "valid_size", "eval_limit", "eval_batch_size", "max_new_tokens"]
    if job.trains:
        names += [
            "lr",
            "steps",
            "batch_size",
            "seed",
            "max_length",
            "weight_decay",
            "warmup",
            "clip",
            "calibration_examples",
        ]
        flat |= {f"adapter.{k}": v for k, v in config_fields(job.adapter).items()}
    return json.loads(json.dumps(flat | {n: getattr(job, n) for n in names}))  # tuples become lists, as in a record


def make_id(job: Job, settings: dict[str, Any] | None = None) -> str:
    """`<benchmark>-<model>__<variant>__r<r>[__k<k>]__lr<lr>__<quantization>__s<steps>__seed<seed>[__<hash>]`.

    The hash is there only where a setting without a place of its own differs from the benchmark's. Revisions count as
    typed: when `main` moves, the id stays, and the finished run is seen to be of another commit.
    """
    settings = science(job, commits=False) if settings is None else settings | identities(job, commits=False)
    parts = [f"{job.benchmark}-{job.model.name}", job.variant]
    fields = config_fields(job.adapter)
    if job.trains:
        parts += [f"{letter}{fields[axis]}" for axis, letter in zip(AXES, "rk", strict=True) if axis in fields]
        parts.append(f"lr{job.lr:g}")
    parts.append(job.quantization)
    if job.trains:
        parts += [f"s{job.steps}", f"seed{job.seed}"]
    named = {"benchmark", "variant", "quantization", "lr", "steps", "seed"} | {f"adapter.{a}" for a in AXES}
    usual = science(default_job(job), commits=False)
    if job.model.name == "hub":  # any model at all: none is the usual one
        usual.pop("model")
    other = {k: v for k, v in settings.items() if k not in named and usual.get(k) != v}
    if job.lr is not None and float(f"{job.lr:g}") != job.lr:
        other["lr"] = job.lr  # {lr:g} rounds to six digits
    return "__".join([*parts, *([sha256(other)[:8]] if other else [])])


def code_hash(variant: str) -> str:
    """SHA-256 over the variant's file and the adapter runtime."""
    folder = Path(adapters.__file__).parent
    files = [folder / f"{variant}.py", *sorted(folder.glob("_*.py"))]
    return hashlib.sha256(b"".join(f.name.encode() + f.read_bytes() for f in files)).hexdigest()[:16]
