"""The story of one run: plan it, load, attach, train, evaluate, and write its record."""

from __future__ import annotations

import os
import sys
import time

import torch

import adapters as ad
from harness.config.job import Job
from harness.data.batches import calibration_batches, longest_batch, order_hash, pad_id
from harness.data.load import load_data
from harness.device import one_gpu
from harness.errors import BadInput, refuse
from harness.evaluation.check_model import check_model
from harness.evaluation.metrics import metrics
from harness.evaluation.platinum import read_platinum, score_platinum
from harness.evaluation.predict import predict
from harness.evaluation.repeat import repeat_test
from harness.evaluation.response_loss import response_loss
from harness.inputs.base_model import forget_models, gradient_checkpointing, loaded
from harness.inputs.fingerprints import PLATINUM, Fingerprinter, hub_commits
from harness.inputs.fit import check_fit
from harness.measure.meters import Meters
from harness.records.lock import check_writable, lock
from harness.records.plan import Plan, begin, decide, finish, lacking, new_record, not_refused, plan, tidy
from harness.records.progress import progress
from harness.records.record import Record, error_of
from harness.records.run_log import RunLog
from harness.records.tracking import NoTracker, Wandb, start_tracking
from harness.records.tuning import with_tuned_lr
from harness.report.summary import summary_lines, warnings
from harness.training.compiled import compiled
from harness.training.interrupt import Interrupted, Interruptible
from harness.training.loop import train
from harness.training.metrics import DivergedError


def run(job: Job, *, in_sweep: bool = False) -> Record:
    """Runs what is missing of one job and returns its record. Raises BadInput before anything is trained.

    in_sweep: a failure before training (bad data, no memory for the model) is recorded too, since the other jobs
    continue. A single run then leaves nothing behind.
    """
    if job.threads is not None:
        torch.set_num_threads(job.threads)
        os.environ.setdefault("RAYON_NUM_THREADS", str(job.threads))  # of tokenizers
    fingerprinter = Fingerprinter()
    if job.lr_chosen == "tuned":
        job = with_tuned_lr(job, fingerprinter)
    check_writable(job.runs_dir, "runs_dir")
    check_writable(job.cache_dir, "cache_dir")
    planned = not_refused(plan(job, fingerprinter))
    if planned.action != "skip":
        with lock(job.runs_dir, planned.id):
            planned = not_refused(decide(planned))  # another process may have finished it while this one waited
            if planned.action != "skip":
                return _do(planned, in_sweep=in_sweep)
    assert planned.record is not None
    tidy(planned)
    print(f"{planned.id}: finished already, skipped (force=true runs it again)", flush=True)
    lines = [] if in_sweep else summary_lines(planned.record, planned.folder)
    print("".join(f"{line}\n" for line in lines + lacking(planned)), end="", flush=True)
    return planned.record


def _do(planned: Plan, *, in_sweep: bool) -> Record:
    """Does the run under its lock; what fails is recorded and raised again."""
    job = planned.job
    reason = f" ({planned.reason})" if planned.reason else ""
    print(f"{planned.id}: {planned.action} on {job.device}{reason}{progress(job.runs_dir)}", flush=True)
    if not job.share_gpu:
        one_gpu(job.device)
    this = Run(planned)
    try:
        return this.execute()
    except KeyboardInterrupt as error:
        if not isinstance(error, Interrupted):
            print(f"{planned.id}: interrupted before training began", file=sys.stderr, flush=True)
        raise
    except BaseException as error:
        forget_models()  # what failed may have left the model in any state, or no memory for the next job
        if in_sweep and not this.begun:
            begin(planned)
        if in_sweep or this.begun:
            # Other exits come from a launcher: submitit leaves so when a job's time is up, and starts it again.
            status = "failed" if isinstance(error, Exception | BadInput) else "interrupted"
            finish(planned, this.facts | {"status": status, "error": error_of(error)})
        raise


class Run:
    """One planned run. facts: the record so far. begun: whether it has a folder."""

    def __init__(self, planned: Plan) -> None:
        self.plan, self.job, self.folder = planned, planned.job, planned.folder
        self.facts, self.begun = new_record(planned), False
        self.log, self.interrupts, self.clock = RunLog(planned.folder), Interruptible(), time.perf_counter()
        self.tracker: NoTracker | Wandb = NoTracker()

    def execute(self) -> Record:
        """Loads, attaches, trains, evaluates and records. Raises Interrupted with a record that says so."""
        job = self.job
        check_fit(job)
        self.tokenizer, self.model = loaded(job)
        self.data, self.pad = load_data(job, self.tokenizer, self.plan.fingerprints), pad_id(self.tokenizer)
        self.corrected = read_platinum(job.platinum) if job.platinum.is_set else []
        check_model(self.model, self.tokenizer, self.data, job)
        self.meters = Meters(self.model, self.tokenizer, job, self.data.test[0].text)
        with self._attach():
            earlier = begin(self.plan)
            self.begun = True
            self.tracker = start_tracking(self.plan, self.log.say)
            try:
                with self.interrupts:
                    self._outcome()
                self.facts["seconds"] = earlier + time.perf_counter() - self.clock
                record = finish(self.plan, self.facts)
            finally:
                self.tracker.finish(self.facts, sys.exception())
        if record["status"] == "done":
            for text in warnings(record):
                self.log.write(f"WARNING {text}")
        print("\n".join(summary_lines(record, self.folder)), flush=True)
        return record

    def _attach(self) -> ad.Attachment:
        """Attaches the adapter, measured. Raises BadInput for a config that does not fit the model."""
        job, began = self.job, time.perf_counter()
        calibration = calibration_batches(self.data.train, job, self.pad) or None
        try:
            with self.meters.phase("attach"):
                bases = job.cache_dir / "bases"
                handle = ad.attach(self.model, job.adapter, calibration=calibration, seed=job.seed, cache_dir=bases)
        except ad.AdapterError as error:
            raise refuse(f"variant={job.variant}", str(error).rstrip(".")) from None
        self.facts |= self.meters.attached(handle, began) | {"data": self.data.counts}
        self.facts["provenance"] |= {"order_hash": order_hash(self.data.train, job), "hub_commits": hub_commits(job)}
        return handle

    def _outcome(self) -> None:
        """Trains, evaluates and sets the status."""
        try:
            self._train()
            self._evaluate()
            self.facts["status"] = "done"
        except DivergedError as error:
            self.facts |= {"status": "diverged", "error": error_of(error)}
        except KeyboardInterrupt:
            finish(self.plan, self.facts | {"status": "interrupted"})
            self.facts["status"] = "interrupted"
            self.log.say("interrupted; the same command resumes from the last checkpoint")
            raise Interrupted from None

    def _train(self) -> None:
        job = self.job
        if job.trains:
            saving = gradient_checkpointing(self.model, enabled=job.gradient_checkpointing)
            longest = longest_batch(self.data.train, job.micro_batch or job.batch_size, self.pad, job.device)
            with self.meters.phase("train"), saving, compiled(self.model, longest, enabled=job.compile):
                check, log = self.interrupts.check, self.tracker.log
                progress = train(self.model, job, self.data.train, self.pad, self.folder, self.log.say, check, log)
            self.facts["train"] = progress.summary()
        self.facts["adapter_file_bytes"] = ad.save(self.model, self.folder / "adapter.safetensors")
        self.facts |= self.meters.trained(self.data.train, self.pad)

    def _evaluate(self) -> None:
        """Answers and scores validation and test questions; Platinum and repeats are not in the run's seconds."""
        job, file, tick = self.job, self.folder / "predictions.jsonl", self.log.ticker(self.interrupts.check)
        splits = (("valid", self.data.valid), ("test", self.data.test))
        with self.meters.phase("eval"):
            for split, questions in splits:
                answers = predict(self.model, self.tokenizer, questions, job, split, file, tick)
                self.facts[split] = metrics(answers, questions)
        for split, questions in splits:
            self.facts[split] |= response_loss(self.model, self.tokenizer, questions, job, tick)
        self.facts |= {"memory": self.meters.memory.peaks, "cost": self.meters.cost}
        start, test = time.perf_counter(), self.data.test
        if self.corrected:
            source = self.plan.fingerprints[PLATINUM].content
            self.facts["platinum"] = score_platinum(answers, test, self.corrected, source)
        if job.eval_repeat > 1:
            inputs = (self.model, self.tokenizer, test, job, answers, file, tick)
            self.facts["repeat"] = repeat_test(*inputs, turns=job.eval_repeat)
        self.clock += time.perf_counter() - start
