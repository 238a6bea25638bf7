"""One run from a validated job to a record: skip or refuse, load, attach, train, evaluate, save."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

import adapters as ad
from harness.config.job import Job, given
from harness.data.batches import batches, calibration_batches, collate, pad_id
from harness.data.load import Data, load_data
from harness.data.token_cache import lengths_of
from harness.device import one_gpu
from harness.errors import BadInput, refuse
from harness.evaluation.forgetting import nats_per_token, pinned_texts, texts_sha256
from harness.evaluation.metrics import metrics
from harness.evaluation.platinum import read, scored
from harness.evaluation.predict import predict
from harness.evaluation.predictions import Prediction
from harness.evaluation.repeat import answered_again
from harness.hashing import sha256
from harness.inputs.base_model import gradient_checkpointing, load_model, load_tokenizer
from harness.inputs.fingerprints import hub_commits
from harness.loss import label_loss_sum, refuse_scaled_logits
from harness.measure.cost import MemoryMeter, macs_per_token, pass_times
from harness.measure.health import Health
from harness.records.plan import Plan, _identity, begin, finish, lacking, plan
from harness.records.record import _place, _train_numbers
from harness.records.store import check_writable, lock
from harness.records.tracking import NoTracker, Wandb, start
from harness.records.tuning import with_tuned_lr
from harness.report.summary import summary_lines, warnings
from harness.training.interrupt import Interrupted, Interruptible
from harness.training.loop import DivergedError, train


def run(job: Job, *, in_sweep: bool = False) -> dict[str, Any]:
    """Does what is missing of one job and returns its record. Raises BadInput before anything is trained.

    in_sweep: what fails before training (bad data, no memory for the model) leaves a record too, since the other jobs
    go on; a single run leaves nothing behind then.
    """
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    if job.lr_chosen == "tuned":
        job = with_tuned_lr(job)
    check_writable(job.runs_dir, "runs_dir")
    check_writable(job.cache_dir, "cache_dir")
    made = _planned(job)
    if made.action != "skip":
        with lock(job.runs_dir, made.id):
            made = _planned(job)  # another process may have finished it while this one waited
            if made.action != "skip":
                return _recorded(job, made, in_sweep=in_sweep)
    return _skipped(job, made, brief=in_sweep)


def _planned(job: Job) -> Plan:
    """What is to be done. Raises BadInput when the run is finished, but is not the same any more."""
    made = plan(job)
    if made.action == "refuse":
        what = f"finished already, but not with the same {made.reason}"
        raise refuse(made.id, what, remedy="force=true replaces it and keeps the old record.")
    return made


def _skipped(job: Job, made: Plan, *, brief: bool) -> dict[str, Any]:
    """The record of a finished run, and what is asked for now but not in it."""
    assert made.record is not None
    print(f"{made.id}: finished already, skipped (force=true runs it again)", flush=True)
    shown = [] if brief else summary_lines(made.record, made.folder)
    if lines := shown + lacking(job, made.record):
        print("\n".join(lines), flush=True)
    return made.record


def _recorded(job: Job, made: Plan, *, in_sweep: bool) -> dict[str, Any]:
    """Does the run under its lock; what fails is recorded and raised again."""
    print(f"{made.id}: {made.action} on {job.device}", flush=True)
    if not job.share_gpu:
        one_gpu(job.device)
    record = _identity(job, made)
    try:
        this = Run(job, made, record, *_load(job))
        with this.attach():
            return this.execute()
    except KeyboardInterrupt as error:
        if not isinstance(error, Interrupted):
            print(f"{made.id}: interrupted before training began", file=sys.stderr, flush=True)
        raise
    except BaseException as error:
        _loaded.clear()  # what failed may have left the model in any state, or no memory for the next job
        begun = "status" in record
        if in_sweep and not begun:
            begin(made, OmegaConf.to_yaml(job.composed))
        if in_sweep or begun:
            # Other exits come from a launcher: submitit leaves so when a job's time is up, and starts it again.
            status = "failed" if isinstance(error, Exception | BadInput) else "interrupted"
            finish(made, record | {"status": status, "error": _place(error)})
        raise


_loaded: dict[str, tuple[Any, Any]] = {}


def _load(job: Job) -> tuple[Any, Any, Data]:
    """Tokenizer, model and data. Successive jobs of a process share the model: detach restores it bit for bit."""
    key = f"{job.model} {job.quantization} {job.device}"
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = (load_tokenizer(job.model), load_model(job))
    tokenizer, model = _loaded[key]
    return tokenizer, model, load_data(job, tokenizer)


class Run:
    """A job with its model and data at hand: measures the base, attaches, trains, evaluates, and fills the record."""

    def __init__(self, job: Job, made: Plan, record: dict[str, Any], tokenizer: Any, model: Any, data: Data) -> None:
        self.job, self.made, self.record = job, made, record
        self.tokenizer, self.model, self.data = tokenizer, model, data
        self.clock, self.pad = time.perf_counter(), pad_id(tokenizer)
        self.meter, self.interrupts = MemoryMeter(job.device), Interruptible()
        self.corrected = read(job.platinum) if given(job.platinum) else []
        self.texts = pinned_texts(job.forgetting_text)
        self.nats_off = nats_per_token(model, tokenizer, self.texts, job.device)
        refuse_scaled_logits(model, job.model.id)
        self.base_macs = macs_per_token(model, job.device)
        ids = tokenizer(data.test[0].text)["input_ids"]
        self.health = Health(model, torch.tensor([ids], device=job.device))
        self.costs: dict[str, float] = {}
        self.tracker: NoTracker | Wandb = NoTracker()

    def attach(self) -> ad.Attachment:
        """Attaches the adapter, timed. Raises BadInput for configs that do not fit the model."""
        job, start = self.job, time.perf_counter()
        calibration = calibration_batches(self.data.train, job, self.pad) or None
        try:
            with self.meter.phase("attach"):
                bases = job.cache_dir / "bases"
                handle = ad.attach(self.model, job.adapter, calibration=calibration, seed=job.seed, cache_dir=bases)
        except ad.AdapterError as error:
            raise refuse(f"variant={job.variant}", str(error).rstrip(".")) from None
        self.costs["attach_seconds"] = time.perf_counter() - start
        self.health.attached()
        self.costs["added_macs_per_token"] = macs_per_token(self.model, job.device) - self.base_macs
        return handle

    def execute(self) -> dict[str, Any]:
        """Trains, evaluates and records. Raises Interrupted with a record that says so; other errors as they come."""
        made = self.made
        self.record |= self._adapter_facts()
        earlier = begin(made, OmegaConf.to_yaml(self.job.composed))
        self.tracker = start(self.job, made, self._say)
        try:
            self._outcome()
            self.record["seconds"] = earlier + time.perf_counter() - self.clock
            finish(made, self.record)
        finally:
            self.tracker.finish(self.record, sys.exception())
        if self.record["status"] == "done":
            for text in warnings(self.record):
                self._log(f"WARNING {text}")
        print("\n".join(summary_lines(self.record, made.folder)), flush=True)
        return self.record

    def _outcome(self) -> None:
        """Does everything and sets the record's status."""
        with self.interrupts:
            try:
                self._train_and_evaluate()
                self.record["status"] = "done"
            except DivergedError as error:
                self.record |= {"status": "diverged", "error": _place(error)}
            except KeyboardInterrupt:
                self.record["status"] = "interrupted"
                finish(self.made, self.record)
                self._say("interrupted; the same command goes on from the last checkpoint")
                raise Interrupted from None

    def _train_and_evaluate(self) -> None:
        job, folder = self.job, self.made.folder
        if job.trains:
            with self.meter.phase("train"):
                check = self.interrupts.check
                with gradient_checkpointing(self.model, enabled=job.gradient_checkpointing):
                    log = self.tracker.log
                    trained = train(self.model, job, self.data.train, self.pad, folder, self._say, check, log)
            self.record["train"] = _train_numbers(trained)
        self.record["health"] = self.health.report(job.steps)
        self.record["adapter_file_bytes"] = ad.save(self.model, folder / "adapter.safetensors")
        if job.trains:
            self.costs |= pass_times(self._sample_loss, job.device)
            self.model.zero_grad(set_to_none=True)
        on = nats_per_token(self.model, self.tokenizer, self.texts, job.device)
        self.record["forgetting"] = {
            "nats": on - self.nats_off,
            "nats_off": self.nats_off,
            "texts_sha256": texts_sha256(self.texts),
        }
        file = folder / "predictions.jsonl"
        with self.meter.phase("eval"):
            for split, questions in (("valid", self.data.valid), ("test", self.data.test)):
                answers = predict(self.model, self.tokenizer, questions, job, split, file, self._tick)
                self.record[split] = metrics(answers, questions)
        self.record |= {"memory": self.meter.peaks, "cost": self.costs}
        self._look_again(answers, file)

    def _look_again(self, first: list[Prediction], file: Path) -> None:
        """What can be asked of the test answers beyond the primary accuracy: Platinum, and the noise floor."""
        job, asked, start = self.job, self.data.test, time.perf_counter()
        if self.corrected:
            self.record["platinum"] = scored(first, asked, self.corrected, job.platinum, job.cache_dir)
        if job.eval_repeat > 1:
            self.record["repeat"] = answered_again(
                self.model, self.tokenizer, asked, job, first, file, self._tick, turns=job.eval_repeat
            )
        self.clock += time.perf_counter() - start  # the run's seconds are those of runs without this

    def _sample_loss(self) -> torch.Tensor:
        by_length = (-lengths_of(self.data.train)).argsort(kind="stable")[: self.job.micro_batch or self.job.batch_size]
        longest = [self.data.train[n] for n in by_length.tolist()]
        return label_loss_sum(self.model, *collate(longest, self.pad, self.job.device))

    def _adapter_facts(self) -> dict[str, Any]:
        job, handle = self.job, ad.attachment(self.model)
        order = list(batches(self.data.train, steps=job.steps, batch_size=job.batch_size, seed=job.seed))
        return {
            "status": "running",
            "trainable_params": sum(p.numel() for p in handle.trainable().values()),
            "clamped": handle.clamped,
            "calibration_sha256": handle.calibration_sha256,
            "data": self.data.counts,
            "provenance": self.record["provenance"] | {"order_hash": sha256(order), "hub_commits": hub_commits(job)},
        }

    def _say(self, text: str) -> None:
        print(f"{self.made.id}: {text}", file=sys.stderr, flush=True)
        self._log(text)

    def _log(self, text: str) -> None:
        with open(self.made.folder / "run.log", "a") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}\n")

    def _tick(self, text: str) -> None:
        self.interrupts.check()
        if text:
            self._say(text)
