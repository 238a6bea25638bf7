"""A Job: one run with every setting resolved and validated. Code below this never sees a DictConfig."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config.schema import Model, Source, Tracking

if TYPE_CHECKING:
    import adapters as ad


@dataclass(frozen=True)
class Job:
    """One run. The fields up to `max_new_tokens` decide its result; the others say where and how it runs."""

    benchmark: str
    model: Model
    quantization: str
    train_source: Source
    question_source: Source
    test_source: Source
    variant: str
    adapter: ad.Config
    lr: float | None  # None where nothing is trained
    lr_chosen: str  # default, given or tuned (not chosen yet while lr is NaN)
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
    calibration_examples: int  # 0: the variant reads none
    compile: bool
    eval_limit: int | None
    eval_batch_size: int
    max_new_tokens: int
    micro_batch: int | None
    checkpoint_every: int
    gradient_checkpointing: bool
    eval_graphs: bool
    eval_repeat: int  # 2: answer the test questions twice, to measure what batch order changes
    platinum: Source  # corrected references, scored in addition
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

    @property
    def sources(self) -> dict[str, Source]:
        """The data sets that the run reads, by their key in the config."""
        read = {"data.test": self.test_source, "data.questions": self.question_source}
        return read | ({"data.train": self.train_source} if self.trains else {})
