"""A finished run's answers once more: from its adapter or its stored predictions; and what can be added to its record.

Nothing here changes what a run was: `write=true` replaces scores by today's scorer, or adds `platinum` or `repeat`.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

import adapters as ad
from harness.config.job import Job
from harness.config.keys import with_todays_keys
from harness.config.validate import job_from
from harness.data.held_out import hold_out
from harness.device import one_gpu, usable_device
from harness.errors import integer, refuse
from harness.evaluation.metrics import from_bits, metrics
from harness.evaluation.platinum import read, scored
from harness.evaluation.predict import predict
from harness.evaluation.predictions import Prediction, read_predictions
from harness.evaluation.repeat import answered_again
from harness.hashing import sha256
from harness.inputs.base_model import load_model, load_tokenizer
from harness.inputs.fingerprints import at_commits
from harness.inputs.rows import Question, questions_hash, read_questions
from harness.paths import under_root
from harness.records.ids import science
from harness.records.store import read_record, write_record
from harness.report.summary import percent, platinum_line, repeat_line
from harness.scoring import SCORER_VERSION


def evaluate_again(run_id: str, runs_dir: str, split: str, *, limit: int | None, device: str) -> dict[str, Any]:
    """Loads model and adapter, answers the questions, prints and returns the metrics beside the recorded ones."""
    folder, record, job = _open(run_id, runs_dir, split, device=device, limit=limit)
    questions = _questions(job, split)
    with _adapted(folder, job) as (tokenizer, model), tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "predictions.jsonl"
        predictions = predict(model, tokenizer, questions, job, split, file, _progress)
    found = metrics(predictions, questions)
    _compare(run_id, split, record[split], found)
    return found


def rescore(run_id: str, runs_dir: str, split: str, *, write: bool) -> dict[str, Any]:
    """Scores the stored predictions with today's scorer; write=True puts the result into the record."""
    folder, record, job = _open(run_id, runs_dir, split, device="cpu", limit=None)
    questions = _questions(job, split)
    found = metrics(_stored(folder, record, split, questions), questions)
    _compare(run_id, split, record[split], found)
    if write:
        settings = record["science"] | {"scorer_version": SCORER_VERSION}
        changed = {split: found, "science": settings, "science_hash": sha256(settings)}
        if split == "test" and found["scorer_version"] != record["test"]["scorer_version"]:
            for name in ("platinum", "repeat"):  # the old scorer's
                if record.pop(name, None) is not None:
                    print(f"  {name} was scored by another version and is taken out; {name}=… write=true adds it again")
        _write(folder, record | changed)
    return found


def score_platinum(run_id: str, runs_dir: str, place: str, columns: str = "", *, write: bool) -> dict[str, Any]:
    """The stored test predictions by GSM8K-Platinum's references. Loads no model.

    place: a file, or a hub id. columns: `ours:theirs`, with commas between; those not named are the run's own.
    """
    folder, record, job = _open(run_id, runs_dir, "test", device="cpu", limit=None)
    is_hub = place.count("/") == 1 and not Path(place).suffix and not under_root(place).exists()
    path, hub = (None, place) if is_hub else (place, None)
    source = dataclasses.replace(job.platinum, path=path, hub=hub, columns=job.platinum.columns | _pairs(columns))
    corrected, questions = read(source), _questions(job, "test")
    answers = _stored(folder, record, "test", questions)
    found = scored(answers, questions, corrected, source, job.cache_dir)
    print(run_id)
    print(f"  test        {percent(record['test'])}  ({record['test']['correct']}/{record['test']['total']})")
    print(platinum_line(found))
    if write:
        _write(folder, record | {"platinum": found})
    return found


def repeat_test(run_id: str, runs_dir: str, turns: int, *, write: bool, device: str) -> dict[str, Any]:
    """Answers the test questions again in turns − 1 other batch orders; write=True keeps texts and result."""
    integer("repeat", turns, lo=2)
    folder, record, job = _open(run_id, runs_dir, "test", device=device, limit=None)
    questions = _questions(job, "test")
    first = _stored(folder, record, "test", questions)
    with _adapted(folder, job) as (tokenizer, model), tempfile.TemporaryDirectory() as scratch:
        file = (folder if write else Path(scratch)) / "predictions.jsonl"
        found = answered_again(model, tokenizer, questions, job, first, file, _progress, turns=turns)
    print(f"{run_id}\n{repeat_line(found)}")
    if write:
        _write(folder, record | {"repeat": found})
    return found


def _pairs(columns: str) -> dict[str, str]:
    """`question:query,answer:solution` as a mapping from our names to the file's."""
    pairs = [word.partition(":")[::2] for word in columns.split(",") if word]
    if any(ours not in ("question", "answer") or not theirs for ours, theirs in pairs):
        raise refuse("columns", "unknown column", got=columns, expected="question:<name>,answer:<name>")
    return dict(pairs)


# -- parts -------------------------------------------------------------------------------------------------------------
def _open(
    run_id: str, runs_dir: str, split: str, *, device: str, limit: int | None
) -> tuple[Path, dict[str, Any], Job]:
    base = under_root(runs_dir)
    folder, record = base / run_id, read_record(base / run_id)
    if record is None or record["status"] != "done":
        there = sorted(p.parent.name for p in base.glob("*/result.json"))
        near = [r for r in there if r.startswith(run_id[:12])][:3] or there[:3]
        remedy = f"Finished runs: {', '.join(near)}." if near else "There are no finished runs yet."
        raise refuse("run", f"no finished run of this id in {runs_dir}", got=run_id, remedy=remedy)
    if split not in ("test", "valid"):
        raise refuse("split", "unknown split", got=split, expected="test or valid")
    if limit is not None and limit < 1:
        raise refuse("limit", "out of range", got=limit, expected="an integer >= 1")
    composed = with_todays_keys(OmegaConf.load(folder / "config.yaml"))
    composed.device = usable_device(device)  # not the one it was trained on
    job = at_commits(job_from(composed), record["provenance"].get("hub_commits", {}))
    now, then = science(job), record["science"]
    changed = [k for k in sorted(now.keys() | then.keys()) if now.get(k) != then.get(k) and k != "scorer_version"]
    if changed:
        raise refuse(run_id, f"not what it was: {', '.join(changed)}", remedy="Restore it, or run it again.")
    questions = job.eval_limit if limit is None else limit
    return folder, record, dataclasses.replace(job, runs_dir=base, eval_limit=questions)


@contextmanager
def _adapted(folder: Path, job: Job) -> Iterator[tuple[Any, Any]]:
    """Tokenizer and model with the run's adapter attached."""
    path = folder / "adapter.safetensors"
    if not path.is_file():
        remedy = "Published records keep none; run it again."
        raise refuse(folder.name, "no saved adapter", got=str(path), remedy=remedy)
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    if not job.share_gpu:
        one_gpu(job.device)
    tokenizer, model = load_tokenizer(job.model), load_model(job)
    with ad.load(model, path, cache_dir=job.cache_dir / "bases"):
        yield tokenizer, model


def _stored(folder: Path, record: dict[str, Any], split: str, questions: list[Question]) -> list[Prediction]:
    """The run's predictions, one per question. Raises BadInput where they or the questions are not those recorded."""
    if questions_hash(questions) != record[split]["questions_hash"]:
        raise refuse(folder.name, "the questions are not those that were answered", remedy="Restore the data file.")
    stored = {p.index: p for p in read_predictions(folder / "predictions.jsonl") if p.split == split}
    if set(stored) != set(range(len(questions))):
        what, remedy = "stored predictions do not cover the questions", ""
        if not stored:
            remedy = "Published records keep none; run it again."
        raise refuse(folder.name, what, got=len(stored), expected=str(len(questions)), remedy=remedy)
    return [stored[n] for n in range(len(questions))]


def _write(folder: Path, record: dict[str, Any]) -> None:
    write_record(folder, record)
    print(f"{folder / 'result.json'} updated")


def _questions(job: Job, split: str) -> list[Question]:
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
        now = from_bits(found["correct_bits"], found["total"])
        then = from_bits(recorded["correct_bits"], recorded["total"])
        different = sum(a != b for a, b in zip(now, then, strict=True))
        print("  the same questions are right" if not different else f"  {different} questions differ in correctness")


def _progress(text: str) -> None:
    if text:
        print(text, file=sys.stderr, flush=True)
