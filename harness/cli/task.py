"""From Hydra's task function to a run: a single run raises, a sweep records what fails and continues."""

from __future__ import annotations

import sys
import traceback

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from harness.cli.quiet import quiet


def launch(cfg: DictConfig) -> float | None:
    """Runs one composed config and returns its validation accuracy, which sweepers such as Optuna's maximise.

    In a sweep nothing is raised, so no exception crosses a process boundary: errors are in the records, the value is
    None, and cli/sweep.py reads the records at the end. An interrupt ends a serial sweep.
    """
    quiet()
    from harness.config.validate import job_from
    from harness.device import gpu_is_lost
    from harness.errors import BadInput
    from harness.run import run

    hydra = HydraConfig.get()
    if not any(o.startswith(("benchmark=", "experiment=")) for o in hydra.overrides.task):
        reason = "there is a CUDA device" if cfg.benchmark.name == "gsm8k" else "there is no CUDA device"
        print(f"benchmark={cfg.benchmark.name}, since {reason}; choose another with benchmark=…", flush=True)
    sweep = hydra.mode == RunMode.MULTIRUN
    alone = hydra.launcher._target_.endswith((".BasicLauncher", ".SlurmLauncher"))  # no pool ends with this process
    try:
        record = run(job_from(cfg), in_sweep=sweep)
    except KeyboardInterrupt:
        if sweep and not alone:
            return None  # the parent gets its own interrupt, or only this worker was meant
        raise SystemExit(130) from None  # SLURM requeues a preempted job, which must not have returned a value
    except (Exception, BadInput) as error:
        if not sweep:
            raise
        if isinstance(error, Exception):
            traceback.print_exception(error)
        else:
            print(error, file=sys.stderr, flush=True)
        if alone and gpu_is_lost():
            raise SystemExit("the GPU fails every further call of this process. Run the same command again.") from None
        return None
    return float(record["valid"]["accuracy"]) if record["status"] == "done" else 0.0
