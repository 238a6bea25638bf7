"""Run ids, what makes two runs the same, records on disk, and whether a run is finished."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import adapters
from adapters._bases import atomic_file
from adapters._checkpoint import config_fields
from harness.bad_input import refuse
from harness.identity import identities, sha256, text_identity
from harness.job import AXES, Job, default_job
from harness.schema import ROOT
from harness.scoring import SCORER_VERSION

SCHEMA_VERSION = 1
PUBLISHED = ROOT / "runs" / "published"
FINAL = ("done", "diverged")  # outcomes; failed and interrupted runs are run again


@dataclass(frozen=True)
class Plan:
    """What is to be done about a job: `run`, `resume`, `skip` (finished) or `refuse` (finished, but not the same)."""

    id: str
    folder: Path
    science: dict[str, Any]
    science_hash: str
    code_hash: str
    action: str
    reason: str = ""
    record: dict[str, Any] | None = None


def plan(job: Job) -> Plan:
    """Decides by id and hashes, without loading a model."""
    settings = science(job)
    run_id = make_id(job, settings)
    folder = job.runs_dir / run_id
    code = code_hash(job.variant)
    made = Plan(run_id, folder, settings, sha256(settings), code, "run")
    record = read_record(folder)
    if record is None or record["status"] not in FINAL:
        same = _unfinished(folder) == {"science_hash": made.science_hash, "code_hash": code}
        return dataclasses.replace(made, action="resume" if same else "run", record=record)
    if job.force:
        return dataclasses.replace(made, record=record)
    changed = []
    if record.get("science_hash") != made.science_hash:
        old = record.get("science", {})
        changed = [k for k in sorted(settings.keys() | old.keys()) if settings.get(k) != old.get(k)] or ["settings"]
    if record.get("code_hash") != code:
        changed.append(f"code of {job.variant}")
    if changed:
        return dataclasses.replace(made, action="refuse", reason=", ".join(changed), record=record)
    return dataclasses.replace(made, action="skip", record=record)


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


# -- records -----------------------------------------------------------------------------------------------------------
def read_record(folder: Path) -> dict[str, Any] | None:
    """result.json of a run folder, or None where there is none that can be read."""
    try:
        record = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and "status" in record else None


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """result.json, atomically: whoever reads it sees a whole record."""
    with atomic_file(folder / "result.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")


@contextmanager
def lock(runs_dir: Path, run_id: str) -> Iterator[None]:
    """One process per run id; held from before the folder exists to after the record is written.

    The kernel frees it when its holder dies. Nothing is left behind, so that bad input leaves no trace.
    """
    path = runs_dir / ".locks" / f"{run_id}.lock"
    held = FileLock(path, poll_interval=0.2)
    while not held.is_locked:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # the holder before removed the folder just now
            try:
                held.acquire(timeout=0)
            except Timeout:
                print(f"{run_id}: another process is at it; waiting", flush=True)
                held.acquire()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever waits sees that the file is gone, and makes a new one
        held.release()
        for folder in (path.parent, runs_dir):
            with suppress(OSError):
                folder.rmdir()  # if it is empty


def check_writable(folder: Path, key: str) -> None:
    """Raises BadInput where nothing can be stored below `folder`; leaves nothing behind."""
    existing = folder
    while not os.path.exists(existing):  # unlike Path.exists, no PermissionError below somebody else's folder
        existing = existing.parent
    try:
        # For root, access rights say nothing about /proc or a read-only disk.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        raise refuse(key, what, got=str(folder), remedy=f"Give another: {key}=<folder>.") from None


def begin(made: Plan, composed_yaml: str) -> float:
    """Makes the run's folder, or the same one ready to go on; another or failed run's remains are put aside.

    Returns the seconds that earlier, interrupted sessions of this run took, up to the last thing they wrote.
    """
    earlier = _seconds_of_session(made.folder) if made.action == "resume" else 0.0
    if made.folder.exists() and made.action != "resume":
        keep = made.folder.parent / ".replaced"
        keep.mkdir(exist_ok=True)
        made.folder.rename(keep / f"{made.id}-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}")
    (made.folder / "checkpoint").mkdir(parents=True, exist_ok=True)
    (made.folder / "config.yaml").write_text(composed_yaml)
    started = {"science_hash": made.science_hash, "code_hash": made.code_hash}
    with atomic_file(made.folder / "checkpoint" / "started.json") as temporary:
        temporary.write_text(json.dumps(started | {"earlier": earlier, "began": time.time()}))
    return earlier


def _seconds_of_session(folder: Path) -> float:
    """From the beginning of the last session to its last write, and the sessions before it."""
    try:
        started = json.loads((folder / "checkpoint" / "started.json").read_text())
        last = max(p.stat().st_mtime for p in [*folder.iterdir(), *(folder / "checkpoint").iterdir()])
        return float(started["earlier"]) + max(0.0, last - started["began"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def finish(made: Plan, record: dict[str, Any]) -> None:
    """Writes the record last, then removes what only an unfinished run needs."""
    write_record(made.folder, record)
    if record["status"] in FINAL:
        shutil.rmtree(made.folder / "checkpoint", ignore_errors=True)


def _unfinished(folder: Path) -> Any:
    """Hashes that an unfinished run was started with."""
    try:
        started = json.loads((folder / "checkpoint" / "started.json").read_text())
        return {name: started[name] for name in ("science_hash", "code_hash")}
    except (OSError, ValueError, KeyError, TypeError):
        return None
