"""Re-evaluates a finished run, from its adapter or its stored predictions.

`write=true` updates the record: scores by today's scorer, or added `platinum` or `repeat`.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

import adapters as ad
from harness.config.job import Job
from harness.config.keys import read_stored
from harness.config.validate import job_from
from harness.data.load import split_questions
from harness.device import one_gpu, usable_device
from harness.errors import integer, refuse
from harness.evaluation.metrics import Scores, from_bits, metrics
from harness.evaluation.platinum import read_platinum, score_platinum
from harness.evaluation.predict import predict
from harness.evaluation.predictions import Prediction, read_predictions
from harness.evaluation.repeat import repeat_test
from harness.evaluation.response_loss import response_loss
from harness.hashing import sha256
from harness.inputs.base_model import load_model, load_tokenizer
from harness.inputs.fingerprints import PLATINUM, Fingerprinter, at_commits, source_fingerprint
from harness.inputs.rows import Question, questions_hash
from harness.paths import under_root
from harness.records.ids import science
from harness.records.record import Record, checked
from harness.records.store import read_record, write_record
from harness.report.summary import percent, platinum_text, repeat_text
from harness.scoring import SCORER_VERSION


@dataclass(frozen=True)
class FinishedRun:
    """A run that is done: its folder, its record, and its job with today's device and limit."""

    folder: Path
    record: Record
    job: Job

    def scores(self, split: str) -> Scores:
        return self.record["test"] if split == "test" else self.record["valid"]

    def questions(self, split: str) -> list[Question]:
        return split_questions(self.job, split)

    def stored(self, split: str, questions: list[Question]) -> list[Prediction]:
        """Its predictions, one per question. Raises BadInput if they or the questions differ from the record."""
        name = self.folder.name
        if questions_hash(questions) != self.scores(split)["questions_hash"]:
            raise refuse(name, "the questions are not those that were answered", remedy="Restore the data file.")
        stored = {p.index: p for p in read_predictions(self.folder / "predictions.jsonl") if p.split == split}
        if set(stored) != set(range(len(questions))):
            remedy = "" if stored else "Published records keep none; run it again."
            what, expected = "stored predictions do not cover the questions", str(len(questions))
            raise refuse(name, what, got=len(stored), expected=expected, remedy=remedy)
        return [stored[n] for n in range(len(questions))]

    @contextmanager
    def adapted(self) -> Iterator[tuple[Any, Any]]:
        """Tokenizer and model with the run's adapter attached."""
        path, job = self.folder / "adapter.safetensors", self.job
        if not path.is_file():
            remedy = "Published records keep none; run it again."
            raise refuse(self.folder.name, "no saved adapter", got=str(path), remedy=remedy)
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        if not job.share_gpu:
            one_gpu(job.device)
        tokenizer, model = load_tokenizer(job.model), load_model(job)
        with ad.load(model, path, cache_dir=job.cache_dir / "bases"):
            yield tokenizer, model

    def write(self, **changes: Any) -> None:
        """Changes keys of the record on disk; None takes one out."""
        kept = {k: v for k, v in self.record.items() if k not in changes}
        write_record(self.folder, checked(kept | {k: v for k, v in changes.items() if v is not None}))
        print(f"{self.folder / 'result.json'} updated")


def open_run(run_id: str, runs_dir: str, split: str, *, device: str, limit: int | None = None) -> FinishedRun:
    """A finished run by its id. Raises BadInput if it is missing, unfinished, or its inputs have changed."""
    base = under_root(runs_dir)
    folder, record = base / run_id, read_record(base / run_id)
    if record is not None and record["status"] != "done":
        what = f"this run is not finished ({record['status']})"
        remedy = "" if record["status"] == "diverged" else "The train.py command that started it finishes it."
        raise refuse("run", what, got=run_id, remedy=remedy)
    if not base.is_dir():
        raise refuse("runs_dir", "no such folder", got=runs_dir)
    if record is None:
        there = sorted(p.parent.name for p in base.glob("*/result.json"))
        near = [r for r in there if r.startswith(run_id[:12])][:3] or there[:3]
        remedy = f"Finished runs: {', '.join(near)}." if near else "There are no finished runs yet."
        raise refuse("run", f"no finished run of this id in {runs_dir}", got=run_id, remedy=remedy)
    if split not in ("test", "valid"):
        raise refuse("split", "unknown split", got=split, expected="test or valid")
    if limit is not None and limit < 1:
        raise refuse("limit", "out of range", got=limit, expected="an integer >= 1")
    composed = read_stored(folder / "config.yaml")
    composed.device = usable_device(device)  # not the one it was trained on
    job = at_commits(job_from(composed), record["provenance"].get("hub_commits", {}))
    now, then = science(job, Fingerprinter().of(job)), record["science"]
    changed = [k for k in sorted(now.keys() | then.keys()) if now.get(k) != then.get(k) and k != "scorer_version"]
    if changed:
        raise refuse(run_id, f"not what it was: {', '.join(changed)}", remedy="Restore it, or run it again.")
    questions = job.eval_limit if limit is None else limit
    return FinishedRun(folder, record, dataclasses.replace(job, runs_dir=base, eval_limit=questions))


def evaluate(run_id: str, runs_dir: str, split: str, *, limit: int | None, device: str) -> Scores:
    """Loads model and adapter, answers the questions, prints and returns the scores beside the recorded ones."""
    run = open_run(run_id, runs_dir, split, device=device, limit=limit)
    questions = run.questions(split)
    with run.adapted() as (tokenizer, model), tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "predictions.jsonl"
        answers = predict(model, tokenizer, questions, run.job, split, file, _progress)
        loss = response_loss(model, tokenizer, questions, run.job, _progress)
    scores = cast(Scores, metrics(answers, questions) | loss)
    _compare(run_id, split, run.scores(split), scores)
    return scores


def rescore(run_id: str, runs_dir: str, split: str, *, write: bool) -> Scores:
    """Scores the stored predictions of a split with today's scorer.

    write=True puts that into the record, and the other split's scores too: a record has one scorer.
    """
    run = open_run(run_id, runs_dir, split, device="cpu")
    scores = _rescored(run, split)
    _compare(run_id, split, run.scores(split), scores)
    if write:
        settings = run.record["science"] | {"scorer_version": SCORER_VERSION}
        changes: dict[str, Any] = {"science": settings, "science_hash": sha256(settings)}
        changes |= {name: scores if name == split else _rescored(run, name) for name in ("test", "valid")}
        if scores["scorer_version"] != run.record["test"]["scorer_version"]:
            for name in ("platinum", "repeat"):  # the old scorer's
                if name in run.record:
                    changes[name] = None
                    print(f"  {name} was scored by another version and is taken out; {name}=… write=true adds it again")
        run.write(**changes)
    return scores


def _rescored(run: FinishedRun, split: str) -> Scores:
    kept = {key: value for key, value in run.scores(split).items() if key.startswith("response_")}  # takes the model
    questions = run.questions(split)
    return cast(Scores, metrics(run.stored(split, questions), questions) | kept)


def platinum(run_id: str, runs_dir: str, place: str, columns: str = "", *, write: bool) -> dict[str, Any]:
    """The stored test predictions by GSM8K-Platinum's references. Loads no model.

    place: a file, or a hub id. columns: `ours:theirs`, with commas between; those not named are the run's own.
    """
    run = open_run(run_id, runs_dir, "test", device="cpu")
    is_hub = place.count("/") == 1 and not Path(place).suffix and not under_root(place).exists()
    path, hub = (None, place) if is_hub else (place, None)
    own = run.job.platinum
    source = dataclasses.replace(own, path=path, hub=hub, columns=own.columns | _pairs(columns))
    corrected, questions = read_platinum(source), run.questions("test")
    fingerprint = source_fingerprint(source, run.job.cache_dir, PLATINUM).content
    scores = score_platinum(run.stored("test", questions), questions, corrected, fingerprint)
    test = run.record["test"]
    print(f"{run_id}\n  test        {percent(test)}  ({test['correct']}/{test['total']})")
    print(f"  platinum    {platinum_text(scores)}")
    if write:
        run.write(platinum=scores)
    return scores


def repeat(run_id: str, runs_dir: str, turns: int, *, write: bool, device: str) -> dict[str, Any]:
    """Answers the test questions again in turns − 1 other batch orders; write=True keeps texts and result."""
    integer("repeat", turns, lo=2)
    run = open_run(run_id, runs_dir, "test", device=device)
    questions = run.questions("test")
    first = run.stored("test", questions)
    with run.adapted() as (tokenizer, model), tempfile.TemporaryDirectory() as scratch:
        file = (run.folder if write else Path(scratch)) / "predictions.jsonl"
        repeated = repeat_test(model, tokenizer, questions, run.job, first, file, _progress, turns=turns)
    print(f"{run_id}\n  repeat      {repeat_text(repeated)}")
    if write:
        run.write(repeat=repeated)
    return repeated


def _pairs(columns: str) -> dict[str, str]:
    """`question:query,answer:solution` as a mapping from our names to the file's."""
    pairs = [word.partition(":")[::2] for word in columns.split(",") if word]
    if any(ours not in ("question", "answer") or not column for ours, column in pairs):
        raise refuse("columns", "unknown column", got=columns, expected="question:<name>,answer:<name>")
    return dict(pairs)


def _compare(run_id: str, split: str, recorded: Scores, again: Scores) -> None:
    print(run_id)
    print(f"  {split} now       {percent(again)}  ({again['correct']}/{again['total']}, 95 % interval)")
    print(f"  {split} recorded  {percent(recorded)}  ({recorded['correct']}/{recorded['total']})")
    if "response_loss" in again and "response_loss" in recorded:
        now, then = again["response_loss"], recorded["response_loss"]
        print(f"  response loss {now:.4f}, recorded {then:.4f} nats per token")
    if again["questions_hash"] == recorded["questions_hash"]:
        right = from_bits(again["correct_bits"], again["total"])
        before = from_bits(recorded["correct_bits"], recorded["total"])
        different = sum(a != b for a, b in zip(right, before, strict=True))
        print(f"  {different} questions differ in correctness" if different else "  the same questions are right")


def _progress(text: str) -> None:
    if text:
        print(text, file=sys.stderr, flush=True)
