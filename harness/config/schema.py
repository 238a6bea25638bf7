"""Types of every key a user may set. Hydra checks overrides and YAML files against them.

Imports neither torch nor adapters, so that `--help` is fast. harness/config/validate.py checks values.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from harness.device import gpu_count
from harness.paths import CONF


@dataclass
class BenchmarkSchema:
    name: str = MISSING
    model: str = MISSING  # option of the group `model` that this benchmark uses
    data: str = MISSING
    steps: int = MISSING
    batch_size: int = MISSING
    max_length: int = MISSING  # tokens of prompt and response; longer examples are dropped and counted
    prompt: str = MISSING
    valid_size: int = MISSING  # questions held out of training
    eval_batch_size: int = MISSING
    max_new_tokens: int = MISSING
    forgetting_text: str = MISSING  # pinned text, or `generated:stories`


@dataclass
class Model:
    """The base model: a Hugging Face folder, a GGUF file or a hub repository."""

    name: str = MISSING
    id: str = MISSING  # folder or hub id
    revision: str | None = None
    gguf_file: str | None = None
    dtype: str = MISSING  # of the base weights and activations
    setup: str | None = None  # command that fetches or makes a local model


@dataclass
class Source:
    """One split of a data set: a local file (`path`), or a hub data set (`hub`)."""

    path: str | None = None  # JSON, JSONL or parquet file, or `generated:<split>` of the tiny benchmark
    hub: str | None = None
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    columns: dict[str, str] = field(default_factory=dict)  # our name → the file's name

    @property
    def is_set(self) -> bool:
        return self.path is not None or self.hub is not None


PLATINUM: dict[str, Any] = {"split": "test", "columns": {"question": "question", "answer": "answer"}}


@dataclass
class DataSchema:
    train: Source = field(default_factory=Source)
    questions: Source = field(default_factory=Source)
    test: Source = field(default_factory=Source)
    platinum: Source = field(default_factory=lambda: Source(**PLATINUM))  # corrected references to test questions


@dataclass
class QuantizationSchema:
    name: str = MISSING


@dataclass
class Tracking:
    """The name of a tracker, or `none`."""

    name: str = MISSING
    mode: str | None = None  # offline or online
    project: str | None = None


@dataclass
class TrainSchema:
    weight_decay: float = MISSING
    warmup: float = MISSING
    clip: float = MISSING
    micro_batch: int | None = None
    checkpoint_every: int = MISSING
    compile: bool = False
    gradient_checkpointing: bool = False
    calibrate: bool = False
    calibration_examples: int = MISSING


@dataclass
class EvalSchema:
    limit: int | None = None
    batch_size: int | None = None
    max_new_tokens: int | None = None
    repeat: int = 1
    graphs: bool = False


@dataclass
class Schema:
    benchmark: BenchmarkSchema = field(default_factory=BenchmarkSchema)
    model: Model = field(default_factory=Model)
    data: DataSchema = field(default_factory=DataSchema)
    variant: Any = MISSING  # checked against the variant's own Config class
    quantization: QuantizationSchema = field(default_factory=QuantizationSchema)
    tracking: Tracking = field(default_factory=Tracking)
    experiment: Any = None
    rank: int | None = None
    lora_rank: int | None = None
    lr: Any = None  # a number or `tuned`
    lr_scale: float = 1.0
    alpha: float | None = None
    targets: Any = None
    seed: int = 0
    steps: int | None = None
    batch_size: int | None = None
    train: TrainSchema = field(default_factory=TrainSchema)
    eval: EvalSchema = field(default_factory=EvalSchema)
    device: str = "auto"
    threads: int | None = None
    share_gpu: bool = False
    runs_dir: str = "runs"
    cache_dir: str = ".cache"
    force: bool = False
    dry_run: bool = False


def default_of(group: str, benchmark: str) -> str:
    """The option of `group` that a benchmark's YAML names. Hydra itself refuses an unknown benchmark."""
    try:
        return str(yaml.safe_load((CONF / "benchmark" / f"{benchmark}.yaml").read_text())[group])
    except OSError:
        return "tiny"


def register() -> None:
    """Registers schema and resolvers with Hydra. Call before `hydra.main`; idempotent."""
    # conf/hydra/launcher/ reuses the plugins' names on purpose, so that their schemas check it.
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")
    ConfigStore.instance().store(name="schema", node=Schema)
    OmegaConf.register_new_resolver("default_benchmark", lambda: "gsm8k" if gpu_count() else "tiny", replace=True)
    OmegaConf.register_new_resolver("gpu_count", gpu_count, replace=True)
    OmegaConf.register_new_resolver("gpu_per_job", lambda: min(1, gpu_count()), replace=True)
    OmegaConf.register_new_resolver("processes", lambda: gpu_count() or 2, replace=True)
    OmegaConf.register_new_resolver("default_of", default_of, replace=True)
