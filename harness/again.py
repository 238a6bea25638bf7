"""A finished run's accuracy once more: from its adapter, or from its stored predictions."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

import adapters as ad
from harness import evaluation, identity, runs
from harness.bad_input import refuse
from harness.data import hold_out
from harness.job import Job, job_from, usable_device
from harness.models import load_model, load_tokenizer
from harness.report import percent
from harness.schema import under_root
from harness.scoring import SCORER_VERSION
from harness.sources import read_questions


def evaluate_again(run_id: str, runs_dir: str, split: str, *, limit: int | None, device: str) -> dict[str, Any]:
    """Loads model and adapter, answers the questions, prints and returns the metrics beside the recorded ones."""
    folder, record, job = _open(run_id, runs_dir, split, device=device, limit=limit)
    tokenizer, model = load_tokenizer(job.model), load_model(job)
    questions = _questions(job, split)
    path = folder / "adapter.safetensors"
    if not path.is_file():
        raise refuse(run_id, "no saved adapter", got=str(path), remedy="Published records keep none; run it again.")
    with ad.load(model, path, cache_dir=job.cache_dir / "bases"), tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "predictions.jsonl"
        predictions = evaluation.predict(model, tokenizer, questions, job, split, file, _progress)
    found = evaluation.metrics(predictions, questions)
    _compare(run_id, split, record[split], found)
    return found


def rescore(run_id: str, runs_dir: str, split: str, *, write: bool) -> dict[str, Any]:
    """Scores the stored predictions with today's scorer; write=True puts the result into the record."""
    folder, record, job = _open(run_id, runs_dir, split, device="cpu", limit=None)
    questions = _questions(job, split)
    stored = {p.index: p for p in evaluation.read_predictions(folder / "predictions.jsonl") if p.split == split}
    if set(stored) != set(range(len(questions))):
        raise refuse(
            run_id, "stored predictions do not cover the questions", got=len(stored), expected=str(len(questions))
        )
    found = evaluation.metrics([stored[n] for n in range(len(questions))], questions)
    if found["questions_hash"] != record[split]["questions_hash"]:
        raise refuse(run_id, "the questions are not those that were answered", remedy="Restore the data file.")
    _compare(run_id, split, record[split], found)
    if write:
        settings = record["science"] | {"scorer_version": SCORER_VERSION}
        runs.write_record(folder, record | {split: found, "science": settings, "science_hash": runs.sha256(settings)})
        print(f"{folder / 'result.json'} updated")
    return found


def _open(
    run_id: str, runs_dir: str, split: str, *, device: str, limit: int | None
) -> tuple[Path, dict[str, Any], Job]:
    base = under_root(runs_dir)
    folder, record = base / run_id, runs.read_record(base / run_id)
    if record is None or record["status"] != "done":
        there = sorted(p.parent.name for p in base.glob("*/result.json"))
        near = [r for r in there if r.startswith(run_id[:12])][:3] or there[:3]
        remedy = f"Finished runs: {', '.join(near)}." if near else "There are no finished runs yet."
        raise refuse("run", f"no finished run of this id in {runs_dir}", got=run_id, remedy=remedy)
    if split not in ("test", "valid"):
        raise refuse("split", "unknown split", got=split, expected="test or valid")
    if limit is not None and limit < 1:
        raise refuse("limit", "out of range", got=limit, expected="an integer >= 1")
    composed = DictConfig(OmegaConf.load(folder / "config.yaml"))
    composed.device = usable_device(device)  # not the one it was trained on
    job = identity.at_commits(job_from(composed), record["provenance"].get("hub_commits", {}))
    now, then = runs.science(job), record["science"]
    changed = [k for k in sorted(now.keys() | then.keys()) if now.get(k) != then.get(k) and k != "scorer_version"]
    if changed:
        raise refuse(run_id, f"not what it was: {', '.join(changed)}", remedy="Restore it, or run it again.")
    questions = job.eval_limit if limit is None else limit
    return folder, record, dataclasses.replace(job, runs_dir=base, eval_limit=questions)


def _questions(job: Job, split: str) -> list[Any]:
    if split == "test":
        questions = read_questions(job.test_source, "data.test")
    else:
        questions = hold_out(read_questions(job.question_source, "data.questions"), job.valid_size)[0]
    return questions[: job.eval_limit]


def _compare(run_id: str, split: str, recorded: dict[str, Any], found: dict[str, Any]) -> None:
    print(f"{run_id}")
    print(f"  {split} now       {percent(found)}  ({found['correct']}/{found['total']}, 95 % interval)")
    print(f"  {split} recorded  {percent(recorded)}  ({recorded['correct']}/{recorded['total']})")
    if found["questions_hash"] == recorded["questions_hash"]:
        now = evaluation.from_bits(found["correct_bits"], found["total"])
        then = evaluation.from_bits(recorded["correct_bits"], recorded["total"])
        different = sum(a != b for a, b in zip(now, then, strict=True))
        print("  the same questions are right" if not different else f"  {different} questions differ in correctness")


def _progress(text: str) -> None:
    if text:
        print(text, file=sys.stderr, flush=True)
