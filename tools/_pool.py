"""Runs jobs in several processes until none is left: the part that `make table` and `make study` share."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from statistics import median

from harness.cli.quiet import quiet
from harness.config.job import Job
from harness.inputs.fingerprints import Fingerprinter
from harness.paths import PUBLISHED
from harness.records.plan import plan
from harness.records.progress import duration
from harness.records.record import FINAL
from harness.records.store import read_records


def work(left: Callable[[], list[Job]], workers: int, fingerprinter: Fingerprinter, *, dry: bool = False) -> None:
    """Runs what `left` returns, calling it again after each run, since results can ask for more. dry: prints it only.

    A run that raises ends the work; the same command continues it.
    """
    if dry:
        ids = [plan(job, fingerprinter).id for job in left()]
        print("\n".join([*ids, f"{len(ids)} runs are left, as far as is known"]))
        return
    running: dict[Future[float], Job] = {}
    took: list[float] = []
    with processes(workers) as pool:
        while True:
            jobs = left()
            waiting = [job for job in jobs if job not in running.values()]
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                running[pool.submit(_run, job)] = job
                print(f"{plan(job, fingerprinter).id} started; at least {len(jobs)} runs left", flush=True)
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                took.append(future.result())
                about = duration(median(took) * len(jobs) / workers)
                name = plan(job, fingerprinter).id
                print(f"{name} took {took[-1]:.0f} s; {about} left for the runs known so far", flush=True)


def processes(count: int) -> ProcessPoolExecutor:
    """A pool whose processes stop when this one is killed, as Ctrl-C would stop them: a run in training saves first."""
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)  # to save in
    os._exit(1)


def _run(job: Job) -> float:
    """One run in a worker. Returns seconds."""
    from harness.run import run

    quiet()
    start = time.monotonic()
    run(job)
    return time.monotonic() - start


def unfinished(jobs: Mapping[str, Job]) -> list[Job]:
    """The jobs, given by their science hash, that neither their runs_dir nor runs/published has an outcome of."""
    folders = [*dict.fromkeys(job.runs_dir for job in jobs.values()), PUBLISHED]
    done = {r["science_hash"] for r in read_records(folders).records if r["status"] in FINAL}
    return [job for key, job in jobs.items() if key not in done]
