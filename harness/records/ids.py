"""What makes two runs the same: their settings (`science`), the hash of their code, and the run id."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import adapters as ad
from harness.config.compose import default_job
from harness.config.job import Job
from harness.hashing import sha256, source_sha256
from harness.inputs.fingerprints import Fingerprinter, Fingerprints, text_fingerprint
from harness.paths import ROOT
from harness.scoring import SCORER_VERSION

# Raise it whenever the harness itself changes what a run gives (tests/records/test_golden.py fails until then). It is
# part of the science: finished runs of another version are refused by name, never mixed with new ones.
# 2: no batch holds an example twice; more copies of held-out questions are removed from training.
# 3: quantities that do not depend on the input are computed for all layers together, which rounds differently.
RESULTS_VERSION = 3
AXES = {"r": "r", "lora_rank": "k"}  # adapter field → its letter in the run id
NAMED = {"benchmark", "variant", "quantization", "lr", "steps", "seed"} | {f"adapter.{axis}" for axis in AXES}
EVALUATED = ("prompt", "valid_size", "eval_limit", "eval_batch_size", "max_new_tokens")
TRAINED = ("lr", "steps", "batch_size", "seed", "max_length", "weight_decay", "warmup", "clip", "calibration_examples")
# The modules that make results. A change in them does not refuse a finished run, but an unfinished one starts again.
ENGINE: tuple[str, ...] = ("run.py", "loss.py", "scoring.py", "numbers.py", "sentence.py")
ENGINE += ("inputs", "data", "training", "evaluation", "tiny")


def science(job: Job, prints: Fingerprints, *, typed: bool = False) -> dict[str, Any]:
    """Everything that can change the result, flat. Devices, logging and file locations are not in it; contents are.

    typed: with the hub's revisions as they were typed, instead of the commits that they name now.
    """
    flat: dict[str, Any] = {
        "benchmark": job.benchmark,
        **{where: p.typed if typed else p.content for where, p in prints.items() if where in ("model", *job.sources)},
        "model.dtype": job.model.dtype,
        "quantization": job.quantization,
        "variant": job.variant,
        "scorer_version": SCORER_VERSION,
        "results_version": RESULTS_VERSION,
        "forgetting_text": text_fingerprint(job.forgetting_text),
    }
    names = EVALUATED + (TRAINED if job.trains else ())
    if job.trains:
        flat |= {f"adapter.{k}": v for k, v in ad.config_fields(job.adapter).items()}
        flat |= {"compile": True} if job.compile else {}  # records older than the key lack it
    settings: dict[str, Any] = json.loads(json.dumps(flat | {n: getattr(job, n) for n in names}))
    return settings  # tuples have become lists, as in a record


def run_id(job: Job, prints: Fingerprints, fingerprinter: Fingerprinter) -> str:
    """`<benchmark>-<model>__<variant>__r<r>[__k<k>]__lr<lr>__<quantization>__s<steps>__seed<seed>[__<hash>]`.

    The hash is there only where a setting without a place of its own differs from the benchmark's. Revisions count as
    typed: when `main` moves, the id stays, and the finished run is seen to be of another commit.
    """
    parts = [f"{job.benchmark}-{job.model.name}", job.variant]
    fields = ad.config_fields(job.adapter)
    if job.trains:
        parts += [f"{letter}{fields[axis]}" for axis, letter in AXES.items() if axis in fields]
        parts.append(f"lr{job.lr:g}")
    parts.append(job.quantization)
    if job.trains:
        parts += [f"s{job.steps}", f"seed{job.seed}"]
    other = _unusual(job, prints, fingerprinter)
    return "__".join([*parts, *([sha256(other)[:8]] if other else [])])


def _unusual(job: Job, prints: Fingerprints, fingerprinter: Fingerprinter) -> dict[str, Any]:
    """The settings without a place in the run id that differ from the benchmark's."""
    default = default_job(job)
    usual = science(default, fingerprinter.of(default), typed=True)
    if job.model.name == "hub":  # any model at all: none is the usual one
        usual.pop("model")
    settings = science(job, prints, typed=True)
    other = {k: v for k, v in settings.items() if k not in NAMED and usual.get(k) != v}
    if job.lr is not None and float(f"{job.lr:g}") != job.lr:
        other["lr"] = job.lr  # {lr:g} rounds to six digits
    return other


@functools.cache
def code_hash(variant: str, folder: Path = ROOT / "adapters") -> str:
    """16 digits over the syntax trees of the variant's file and the adapter runtime, without the PEFT exchange."""
    runtime = [f for f in sorted(folder.glob("_*.py")) if not f.name.startswith(("_peft", "__"))]
    return source_sha256([folder / f"{variant}.py", *runtime])[:16]


@functools.cache
def engine_hash(folder: Path = ROOT / "harness") -> str:
    """16 digits over the syntax trees of the modules that make results."""
    places = [folder / name for name in ENGINE]
    files: list[Path] = []
    for place in places:
        files += sorted(place.glob("*.py")) if place.is_dir() else [place]
    return source_sha256(files)[:16]
