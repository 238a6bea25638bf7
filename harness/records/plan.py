"""A plan: a run's identity (id, hashes, fingerprints) and the action it needs. Computed once, then carried."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from harness.config.job import Job
from harness.config.secrets import masked
from harness.errors import refuse
from harness.files import write_text
from harness.hashing import sha256
from harness.inputs.fingerprints import PLATINUM, Fingerprinter, Fingerprints
from harness.measure.provenance import provenance
from harness.paths import under_root
from harness.records.ids import RESULTS_VERSION, code_hash, engine_hash, run_id, science
from harness.records.lock import lock
from harness.records.progress import done_in_this_sweep
from harness.records.record import FINAL, SCHEMA_VERSION, Record, checked
from harness.records.store import read_record, write_record


@dataclass(frozen=True)
class Plan:
    """A run and its action: `run`, `resume`, `skip` (finished) or `refuse` (finished, but not with the same settings).

    reason: what changed, where the action is `refuse`, or why an unfinished run starts again. record: the one on disk.
    """

    job: Job
    id: str
    fingerprints: Fingerprints
    science: dict[str, Any]
    science_hash: str
    code_hash: str
    action: str = "run"
    reason: str = ""
    record: Record | None = None

    @property
    def folder(self) -> Path:
        return self.job.runs_dir / self.id

    @property
    def refusal(self) -> str:
        return f"finished already, but not with the same {self.reason}"

    @property
    def stamps(self) -> dict[str, str]:
        """Hashes that an unfinished run must have been started with to be resumed."""
        return {"science_hash": self.science_hash, "code_hash": self.code_hash, "engine_hash": engine_hash()}


def plan(job: Job, fingerprinter: Fingerprinter | None = None) -> Plan:
    """Plans a job by its id and hashes, without loading a model. Raises BadInput for inputs that are not there."""
    fingerprinter = fingerprinter or Fingerprinter()
    prints = fingerprinter.of(job)
    settings = science(job, prints)
    name = run_id(job, prints, fingerprinter)
    return decide(Plan(job, name, prints, settings, sha256(settings), code_hash(job.variant)))


def decide(plan: Plan) -> Plan:
    """The plan with its action, from what is on disk now."""
    record = read_record(plan.folder)
    plan = dataclasses.replace(plan, record=record, action="run", reason="")
    if record is None or record["status"] not in FINAL:
        return _unfinished(plan)
    if plan.job.force and not done_in_this_sweep(plan.folder):
        return plan
    changed = []
    if record["science_hash"] != plan.science_hash:
        old, new = record["science"], plan.science
        changed = [k for k in sorted(new.keys() | old.keys()) if new.get(k) != old.get(k)] or ["settings"]
    if record["code_hash"] != plan.code_hash:
        changed.append(f"code of {plan.job.variant}")
    return dataclasses.replace(plan, action="refuse" if changed else "skip", reason=", ".join(changed))


def not_refused(plan: Plan) -> Plan:
    """The plan. Raises BadInput for a finished run whose settings or code have changed."""
    if plan.action == "refuse":
        raise refuse(plan.id, plan.refusal, remedy="force=true replaces it and keeps the old record.")
    return plan


def _unfinished(plan: Plan) -> Plan:
    """`resume` where the checkpoint is of the same settings and code; else `run`, with the reason."""
    try:
        started = json.loads((plan.folder / "checkpoint" / "started.json").read_text())
        changed = [name for name, value in plan.stamps.items() if started[name] != value]
    except (OSError, ValueError, KeyError, TypeError):
        return plan
    if not changed:
        return dataclasses.replace(plan, action="resume")
    what = {"science_hash": "settings", "code_hash": f"code of {plan.job.variant}", "engine_hash": "training code"}
    return dataclasses.replace(plan, reason=f"{', '.join(what[name] for name in changed)} changed since it began")


def new_record(plan: Plan) -> dict[str, Any]:
    """What a record can say before anything is loaded."""
    job = plan.job
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": plan.id,
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
        "status": "running",
        "trainable_params": None,
        "science": plan.science,
        "results_version": RESULTS_VERSION,
        **plan.stamps,
        "provenance": provenance(job.device),
    }


def begin(plan: Plan) -> float:
    """Creates the run's folder, or keeps it to resume; what another run left there moves to `.replaced`.

    Returns the seconds that earlier, interrupted sessions of this run took, up to the last thing they wrote.
    """
    earlier = _seconds_of_session(plan.folder) if plan.action == "resume" else 0.0
    left = any(p.is_file() and p.name != "config.yaml" for p in plan.folder.rglob("*"))  # not by a kill right here
    if left and plan.action != "resume":
        keep = plan.folder.parent / ".replaced"
        keep.mkdir(exist_ok=True)
        plan.folder.rename(keep / f"{plan.id}-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}")
    (plan.folder / "checkpoint").mkdir(parents=True, exist_ok=True)
    write_text(plan.folder / "config.yaml", OmegaConf.to_yaml(masked(plan.job.composed)))
    started = plan.stamps | {"earlier": earlier, "began": time.time()}
    write_text(plan.folder / "checkpoint" / "started.json", json.dumps(started))
    return earlier


def _seconds_of_session(folder: Path) -> float:
    """From the beginning of the last session to its last write, and the sessions before it."""
    try:
        started = json.loads((folder / "checkpoint" / "started.json").read_text())
        last = max(p.stat().st_mtime for p in [*folder.iterdir(), *(folder / "checkpoint").iterdir()])
        return float(started["earlier"]) + max(0.0, last - float(started["began"]))
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def finish(plan: Plan, facts: dict[str, Any]) -> Record:
    """Writes the record last, then removes what only an unfinished run needs. Raises ValueError for no whole record."""
    record = checked(masked(json.loads(json.dumps(facts))))
    write_record(plan.folder, record)
    if record["status"] in FINAL:
        shutil.rmtree(plan.folder / "checkpoint", ignore_errors=True)
    return record


def tidy(plan: Plan) -> None:
    """Removes the checkpoint that a kill left in the folder of a finished run."""
    if (plan.folder / "checkpoint").exists():
        with lock(plan.job.runs_dir, plan.id):
            if decide(plan).action == "skip":  # no other process has begun it again
                shutil.rmtree(plan.folder / "checkpoint", ignore_errors=True)


def lacking(plan: Plan) -> list[str]:
    """For a finished run: a line per measurement that the job asks for and the record lacks, with what adds it."""
    job, record = plan.job, plan.record
    if record is None or record["status"] != "done":
        return []
    command = f"python eval_gsm8k.py run={plan.id}"
    where = "" if job.runs_dir == under_root("runs") else f" runs_dir={job.runs_dir}"
    lines = []
    if job.platinum.is_set and record.get("platinum", {}).get("source") != plan.fingerprints[PLATINUM].content:
        place, names = job.platinum.path or job.platinum.hub, job.platinum.columns.items()
        odd = ",".join(f"{key}:{column}" for key, column in names if key != column)
        place = f"{place} columns={odd}" if odd else place
        lines.append(f"  platinum    not in the record; add it: {command} platinum={place} write=true{where}")
    if job.eval_repeat > 1 + len(record.get("repeat", {}).get("turns", [])):
        lines.append(f"  repeat      not in the record; add it: {command} repeat={job.eval_repeat} write=true{where}")
    return lines
