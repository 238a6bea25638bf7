"""TODO harness.records.plan"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters._bases import atomic_file
from harness.config.job import WHERE, Job, given
from harness.hashing import sha256
from harness.inputs.fingerprints import source_identity
from harness.measure.provenance import provenance
from harness.paths import under_root
from harness.records.ids import code_hash, make_id, science
from harness.records.record import FINAL, SCHEMA_VERSION
from harness.records.store import read_record, write_record


def lacking(job: Job, record: dict[str, Any]) -> list[str]:
    """For a finished run: one line per thing that is asked for now and not in its record, with what adds it."""
    if record["status"] != "done":
        return []
    command = f"python eval_gsm8k.py run={record['run_id']}"
    where = "" if job.runs_dir == under_root("runs") else f" runs_dir={job.runs_dir}"
    lines = []
    if given(job.platinum):
        source = source_identity(job.platinum, job.cache_dir, WHERE)
        if record.get("platinum", {}).get("source") != source:
            place, names = job.platinum.path or job.platinum.hub, job.platinum.columns.items()
            odd = ",".join(f"{ours}:{theirs}" for ours, theirs in names if ours != theirs)
            place = f"{place} columns={odd}" if odd else place
            lines.append(f"  platinum    not in the record; add it: {command} platinum={place} write=true{where}")
    if job.eval_repeat > 1 + len(record.get("repeat", {}).get("turns", [])):
        lines.append(f"  repeat      not in the record; add it: {command} repeat={job.eval_repeat} write=true{where}")
    return lines


def _identity(job: Job, made: Plan) -> dict[str, Any]:
    """What a record can say before anything is loaded."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": made.id,
        "benchmark": job.benchmark,
        "model": job.model.name,
        "variant": job.variant,
        "rank": getattr(job.adapter, "r", None),
        "lora_rank": getattr(job.adapter, "lora_rank", None),
        "lr": job.lr,
        "lr_chosen": job.lr_chosen,
        "quantization": job.quantization,
        "seed": job.seed if job.trains else None,
        "steps": job.steps,
        "trainable_params": None,
        "science": made.science,
        "science_hash": made.science_hash,
        "code_hash": made.code_hash,
        "provenance": provenance(job.device),
    }


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
