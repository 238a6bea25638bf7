"""One run from a validated job to a record: skip or refuse, load, attach, train, evaluate, save."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from typing import Any

import torch
from omegaconf import OmegaConf

import adapters as ad
from harness import cost, evaluation, runs
from harness.data import Data, batches, load_data, sha256
from harness.health import Health
from harness.interrupt import Interrupted, Interruptible
from harness.job import Job, refuse
from harness.loss import label_loss_sum
from harness.models import load_model, load_tokenizer
from harness.provenance import provenance
from harness.report import summary_lines
from harness.training import DivergedError, TrainResult, collate, train

log = logging.getLogger("harness")


def run(job: Job) -> dict[str, Any]:
    """Does what is missing of one job and returns its record. Raises BadInput before anything is trained."""
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    runs.check_writable(job.runs_dir)
    made = runs.plan(job)
    if made.action == "skip":
        assert made.record is not None
        print(f"{made.id}: finished already, skipped (force=true runs it again)")
        print("\n".join(summary_lines(made.record, made.folder)))
        return made.record
    if made.action == "refuse":
        raise refuse(
            made.id,
            f"finished already, but not with the same {made.reason}",
            remedy="force=true replaces it and keeps the old record.",
        )
    print(f"{made.id}: {made.action} on {job.device}", flush=True)
    if job.dry_run:
        return {}
    tokenizer, data, model = _load(job)
    health = Health(model, torch.tensor([tokenizer(data.test[0].text)["input_ids"]], device=job.device))
    meter, clock = cost.MemoryMeter(job.device), time.perf_counter()
    macs = cost.macs_per_token(model, job.device)
    start = time.perf_counter()
    try:
        with meter.phase("attach"):
            handle = ad.attach(model, job.adapter, seed=job.seed, cache_dir=job.cache_dir / "bases")
    except ad.AdapterError as error:
        raise refuse(f"variant={job.variant}", str(error).rstrip(".")) from None
    with handle:
        health.attached()
        attach_seconds = time.perf_counter() - start
        costs = {
            "attach_seconds": attach_seconds,
            "added_macs_per_token": cost.macs_per_token(model, job.device) - macs,
        }
        with runs.lock(job, made.id):
            again = runs.plan(job)  # another process may have finished it while this one waited
            if again.action == "skip" and again.record is not None:
                print(f"{made.id}: finished by another process meanwhile")
                return again.record
            return _Recorder(job, again, tokenizer, data, model, health, meter, costs, clock).run()


_loaded: dict[str, tuple[Any, Any]] = {}


def _load(job: Job) -> tuple[Any, Data, Any]:
    """Tokenizer, data and model. Successive jobs of a process share the model: detach restores it bit for bit."""
    key = f"{job.model} {job.quantization} {job.device}"
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = (load_tokenizer(job.model), load_model(job))
    tokenizer, model = _loaded[key]
    return tokenizer, load_data(job, tokenizer), model


class _Recorder:
    """The part of a run that leaves traces: everything between taking the lock and writing the record."""

    def __init__(
        self,
        job: Job,
        made: runs.Plan,
        tokenizer: Any,
        data: Data,
        model: Any,
        health: Health,
        meter: cost.MemoryMeter,
        costs: dict[str, float],
        clock: float,
    ) -> None:
        self.job, self.made, self.tokenizer, self.data, self.model = job, made, tokenizer, data, model
        self.health, self.meter, self.costs, self.clock = health, meter, costs, clock
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self.trained: TrainResult | None = None
        self.record: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Runs, and writes a record whatever happens. Re-raises what is neither an interrupt nor a divergence."""
        runs.begin(self.made, OmegaConf.to_yaml(self.job.composed))
        self.record = self._header()
        with Interruptible() as interrupts:
            self.interrupts = interrupts
            try:
                self._train_and_evaluate()
                self.record["status"] = "done"
            except DivergedError as error:
                self.record |= {"status": "diverged", "error": {"class": "DivergedError", "message": str(error)}}
            except KeyboardInterrupt:
                self.record["status"] = "interrupted"
                runs.finish(self.made, self.record)
                self._say("interrupted; the same command goes on from the last checkpoint")
                raise Interrupted from None
            except BaseException as error:
                place = {"class": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
                self.record |= {"status": "failed", "error": place}
                runs.finish(self.made, self.record)
                raise
        self.record["seconds"] = time.perf_counter() - self.clock
        runs.finish(self.made, self.record)
        print("\n".join(summary_lines(self.record, self.made.folder)), flush=True)
        return self.record

    def _train_and_evaluate(self) -> None:
        job, folder = self.job, self.made.folder
        if job.trains:
            with self.meter.phase("train"):
                self.trained = train(
                    self.model, job, self.data.train, self.pad, folder, self._say, self.interrupts.check
                )
            self.record["train"] = self._train_numbers(self.trained)
        self.record["health"] = self.health.report(job.steps)
        self.record["adapter_file_bytes"] = ad.save(self.model, folder / "adapter.safetensors")
        if job.trains:
            self.costs |= cost.pass_times(self._sample_loss, job.device)
            self.model.zero_grad(set_to_none=True)
        with self.meter.phase("eval"):
            for split, questions in (("valid", self.data.valid), ("test", self.data.test)):
                predictions = evaluation.predict(
                    self.model, self.tokenizer, questions, job, split, folder / "predictions.jsonl", self._tick
                )
                self.record[split] = evaluation.metrics(predictions, questions)
        self.record |= {"memory": self.meter.peaks, "cost": self.costs}

    def _sample_loss(self) -> torch.Tensor:
        longest = sorted(self.data.train, key=lambda e: -len(e.ids))[: self.job.micro_batch or self.job.batch_size]
        return label_loss_sum(self.model, *collate(longest, self.pad, self.job.device))

    def _train_numbers(self, trained: TrainResult) -> dict[str, Any]:
        ends = max(1, min(20, len(trained.losses) // 10))  # a tenth of the run, at most 20 steps
        return {
            "loss_first": sum(trained.losses[:ends]) / ends,
            "loss_last": sum(trained.losses[-ends:]) / ends,
            "tokens": trained.tokens,
            "seconds": trained.seconds,
            "tokens_per_s": trained.tokens / trained.seconds,
        }

    def _header(self) -> dict[str, Any]:
        job, handle = self.job, ad.attachment(self.model)
        order = list(batches(self.data.train, steps=job.steps, batch_size=job.batch_size, seed=job.seed))
        return {
            "schema_version": runs.SCHEMA_VERSION,
            "run_id": self.made.id,
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
            "trainable_params": sum(p.numel() for p in handle.trainable().values()),
            "clamped": handle.clamped,
            "data": self.data.counts,
            "forgetting": None,  # not measured yet
            "science": self.made.science,
            "science_hash": self.made.science_hash,
            "code_hash": self.made.code_hash,
            "provenance": provenance(job.device) | {"order_hash": sha256(order)},
        }

    def _say(self, text: str) -> None:
        line = f"{self.made.id}: {text}"
        print(line, file=sys.stderr, flush=True)
        with open(self.made.folder / "run.log", "a") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}\n")

    def _tick(self, text: str) -> None:
        self.interrupts.check()
        if text:
            self._say(text)
