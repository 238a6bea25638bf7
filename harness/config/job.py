"""TODO harness.config.job"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters._contract import Config


@dataclass(frozen=True)
class Source:
    """One split of a data set: a local file (`path`), or a hub data set (`hub`)."""

    path: str | None
    hub: str | None
    subset: str | None
    split: str
    revision: str | None
    columns: dict[str, str]


@dataclass(frozen=True)
class ModelSpec:
    name: str
    id: str
    revision: str | None
    gguf_file: str | None
    dtype: str
    setup: str | None = None


@dataclass(frozen=True)
class Job:
    """One run, completely decided. The fields up to `max_new_tokens` are its science; the rest is where and how."""

    benchmark: str
    model: ModelSpec
    quantization: str
    train_source: Source
    question_source: Source
    test_source: Source
    variant: str
    adapter: Config
    lr: float | None  # None where nothing is trained
    lr_chosen: str  # default, given or tuned
    steps: int
    batch_size: int
    seed: int
    max_length: int
    prompt: str
    valid_size: int
    forgetting_text: str
    weight_decay: float
    warmup: float
    clip: float
    calibration_examples: int  # 0: the variant, as configured, reads none
    eval_limit: int | None
    eval_batch_size: int
    max_new_tokens: int
    # where and how
    micro_batch: int | None
    checkpoint_every: int
    gradient_checkpointing: bool
    eval_repeat: int  # how often the test questions are answered: 2 measures what batch order changes
    platinum: Source  # corrected references for test questions; scored beside them where given
    tracking: Tracking
    device: str
    share_gpu: bool
    threads: int | None
    runs_dir: Path
    cache_dir: Path
    force: bool
    dry_run: bool
    composed: dict[str, Any]  # the resolved config, for the record

    @property
    def trains(self) -> bool:
        return self.lr is not None


WHERE = "data.platinum"


def given(source: Source) -> bool:
    return source.path is not None or source.hub is not None


@dataclass(frozen=True)
class Tracking:
    """The name of a tracker, or `none`."""

    name: str
    mode: str | None
    project: str | None
