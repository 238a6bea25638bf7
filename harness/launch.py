"""From Hydra's task function to a run: single runs raise, a sweep goes on and names failures at the end."""

from __future__ import annotations

import logging
import os
import sys
import traceback

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from harness.cli import failed
from harness.interrupt import Interrupted


def launch(cfg: DictConfig) -> None:
    """Runs one composed config. In a sweep, errors are printed and kept for the end; interrupts always end it."""
    quiet()
    from harness.job import job_from
    from harness.run import run

    if not any(o.startswith("benchmark=") for o in HydraConfig.get().overrides.task):
        reason = "a CUDA device is" if cfg.benchmark.name == "gsm8k" else "no CUDA device is"
        print(f"benchmark={cfg.benchmark.name}, since {reason} present; benchmark=… chooses another", flush=True)
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        run(job_from(cfg))
    except Interrupted:
        raise SystemExit(130) from None
    except (Exception, SystemExit) as error:
        if not sweep:
            raise
        overrides = " ".join(HydraConfig.get().overrides.task)
        failed.append(f"{overrides}: {type(error).__name__}: {str(error).split(chr(10))[0]}")
        if isinstance(error, Exception):
            traceback.print_exception(error)
        else:
            print(error, file=sys.stderr)


def quiet() -> None:
    """Libraries report what a user of this program cannot act on."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it warns at forks; harness/tokens.py: all_cores
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import huggingface_hub
    import transformers

    huggingface_hub.utils.logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # "inputs will be cast", once per layer and step
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
