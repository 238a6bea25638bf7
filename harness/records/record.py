"""The record of a run, result.json: its keys, their types, and what older versions of it lack.

Every reader and writer of a record goes through these types; `checked` is the one way from JSON to a `Record`.
"""

from __future__ import annotations

import json
import math
import re
import traceback
from types import UnionType
from typing import Any, NotRequired, TypedDict, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from harness.evaluation.metrics import Scores
from harness.hashing import sha256
from harness.records.scores import check_scores

SCHEMA_VERSION = 3
FINAL = ("done", "diverged")  # outcomes; failed and interrupted runs are run again
OUTCOMES = ("done", "diverged", "failed")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")  # safe in Markdown, HTML, CSV and paths
LARGEST = 1e15  # of any number: beyond it, sums, axes and conversions fail
SIGNED = ("nats", "added_macs_per_token")  # numbers that may be below zero
SHARES = ("accuracy", "flexible_accuracy", "largest_difference")


class Train(TypedDict):
    """Mean loss of the first and last tenth of the steps (nats per label token), and speed."""

    loss_first: float
    loss_last: float
    tokens: int
    seconds: float
    tokens_per_s: float


class Peaks(TypedDict, total=False):
    """Peak memory of a phase in GB: allocated and reserved on CUDA, resident set on a CPU."""

    peak_allocated_gb: float
    peak_reserved_gb: float
    peak_rss_gb: float


class Cost(TypedDict):
    attach_seconds: float
    added_macs_per_token: float
    forward_ms: NotRequired[float]
    backward_ms: NotRequired[float]


class Forgetting(TypedDict):
    """Nats per token on a pinned text: adapter on minus off, and off."""

    nats: float
    nats_off: float
    texts_sha256: str


class HealthReport(TypedDict):
    """Checks that a run was sound; None where a check does not apply."""

    identity_error: NotRequired[float]
    moved: bool | None
    still: list[str]
    no_base_gradient: bool | None
    base_unchanged: bool | None


class Turn(TypedDict):
    accuracy: float
    correct: int
    total: int
    changed: int
    texts_differ: int


class Repeat(TypedDict):
    """The test questions answered again in other batch orders."""

    turns: list[Turn]
    largest_difference: float


class Platinum(TypedDict):
    """Scores by corrected references: all keys of `Scores`, none where no question matched."""

    source: str
    not_found: int
    accuracy: NotRequired[float]
    total: NotRequired[int]
    questions_hash: NotRequired[str]


class Provenance(TypedDict, total=False):
    commit: str | None
    dirty: bool
    argv: list[str]
    python: str
    versions: dict[str, Any]
    device: str
    cuda: str | None
    threads: int
    order_hash: str
    hub_commits: dict[str, Any]


Error = TypedDict("Error", {"class": str, "message": str, "traceback": str})


class Science(TypedDict, total=False):
    """The settings that readers compute with; a record's `science` holds many more."""

    batch_size: int
    max_new_tokens: int
    calibration_examples: int


class Record(TypedDict):
    schema_version: int
    run_id: str
    benchmark: str
    model: str
    variant: str
    rank: int | None
    lora_rank: int | None
    lr: float | None
    lr_chosen: NotRequired[str]
    quantization: str
    seed: int | None
    steps: int
    status: str
    trainable_params: int | None
    science: dict[str, Any]
    science_hash: str
    code_hash: str
    engine_hash: str | None
    results_version: int
    provenance: Provenance
    error: NotRequired[Error]
    clamped: NotRequired[dict[str, Any]]
    calibration_sha256: NotRequired[str | None]
    data: NotRequired[dict[str, Any]]
    # of finished runs
    train: NotRequired[Train]
    valid: NotRequired[Scores]
    test: NotRequired[Scores]
    memory: NotRequired[dict[str, Peaks]]
    cost: NotRequired[Cost]
    forgetting: NotRequired[Forgetting]
    health: NotRequired[HealthReport]
    adapter_file_bytes: NotRequired[int]
    seconds: NotRequired[float]
    # what can be added later
    platinum: NotRequired[Platinum]
    repeat: NotRequired[Repeat]


# Keys of a finished run's record.
DONE = ("trainable_params", "valid", "test", "memory", "cost", "forgetting", "health", "adapter_file_bytes", "seconds")


def upgraded(raw: dict[str, Any]) -> dict[str, Any]:
    """A record of any version as one of today's; unknown versions are left as they are, for `checked` to refuse.

    Version 1 had no engine_hash, and no results_version: there was one version of results, which is 1. Version 2 had
    neither strata nor response losses.
    """
    if raw.get("schema_version") == 2:
        return raw | {"schema_version": SCHEMA_VERSION}
    if raw.get("schema_version") != 1:
        return raw
    science = raw.get("science", {})
    whole = {"engine_hash": None, "results_version": 1, "science_hash": sha256(science)} | raw
    if isinstance(science, dict) and whole["science_hash"] == sha256(science):
        science = science | {"results_version": 1}
        whole |= {"science": science, "science_hash": sha256(science)}
    return whole | {"schema_version": SCHEMA_VERSION}


def parsed(text: str) -> Record:
    """JSON text as a whole record. Raises ValueError or RecursionError for anything else, NaN and infinity included."""
    return checked(json.loads(text, parse_constant=_finite, parse_float=_finite))


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"not a finite number, got {text}")
    return value


def checked(raw: Any) -> Record:
    """`raw` as a whole record. Raises ValueError, naming the key, for anything that could not stand in a table."""
    if not isinstance(raw, dict):
        raise ValueError("not an object")
    raw = upgraded(raw)
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(f"schema_version {raw.get('schema_version')!r}; expected 1 to {SCHEMA_VERSION}")
    _check(raw, Record, "")
    for key in ("run_id", "benchmark", "model", "variant", "quantization"):
        if not NAME.fullmatch(raw[key]):
            raise ValueError(f"{key}: not a name, got {raw[key][:80]!r}")
    _check(raw["science"], Science, "science")
    if raw["lr"] is not None:
        if raw["lr"] == 0 or raw["steps"] == 0 or not raw["science"].get("batch_size"):
            raise ValueError("lr, steps and science.batch_size of a trained run: expected numbers above 0")
    elif raw["steps"] != 0 and raw["status"] == "done":
        raise ValueError(f"steps: {raw['steps']} of a run without a learning rate")
    if raw["status"] == "done":
        needed = DONE if raw["lr"] is None else (*DONE, "train")
        if missing := [key for key in needed if raw.get(key) is None]:
            raise ValueError(f"{missing[0]} is missing")
        for split in ("valid", "test"):
            check_scores(raw[split], split)
    if "accuracy" in raw.get("platinum", {}):
        _check(raw["platinum"], Scores, "platinum")
        check_scores(raw["platinum"], "platinum")
    return cast(Record, raw)


def _check(value: Any, kind: Any, where: str) -> None:
    """Raises ValueError where a JSON value is not of a type of this module."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (NotRequired, Union, UnionType):
        if value is not None or type(None) not in inner:
            _check(value, next(option for option in inner if option is not type(None)), where)
        return
    container = dict if is_typeddict(kind) else origin
    if container and not isinstance(value, container):
        raise ValueError(f"{where or 'record'}: not {'a list' if container is list else 'an object'}")
    if is_typeddict(kind):
        # Annotations are strings in this module, so __required_keys__ knows nothing of NotRequired.
        for key, own in get_type_hints(kind, include_extras=True).items():
            place = f"{where}.{key}".lstrip(".")
            if key in value:
                _check(value[key], own, place)
            elif kind.__total__ and get_origin(own) is not NotRequired:
                raise ValueError(f"{place} is missing")
    elif container is dict:
        for key, item in value.items():
            _check(item, inner[1], f"{where}.{key}")
    elif container is list:
        for item in value:
            _check(item, inner[0], where)
    elif kind in (int, float):
        _check_number(value, kind, where)
    elif kind is not Any and type(value) is not kind:
        raise ValueError(f"{where}: expected {kind.__name__}, got {str(value)[:80]!r}")


def _check_number(value: Any, kind: type, where: str) -> None:
    name = where.rsplit(".", 1)[-1]
    least, most = -LARGEST if name in SIGNED else 0, 1 if name in SHARES else LARGEST
    if type(value) not in (int, kind) or not least <= value <= most:  # NaN is in no range
        expected = "a whole number" if kind is int else "a number"
        raise ValueError(f"{where}: got {str(value)[:80]!r}; expected {expected} from {least:g} to {most:g}")


def one_line(text: str) -> str:
    """Free text (an error, a device, a setting) as one short line that no page, figure or spreadsheet reads as more."""
    text = re.sub(r"[<>\[\]|*`$\\]|[^\x20-\x7e\s]|^[\s=+@-]+", " ", text.replace("://", ": //"))
    return " ".join(re.sub(r"(?i)\bwww\.", "www ", text).split())[:400]


def error_of(error: BaseException) -> Error:
    """A record's `error`: class, message and traceback of the exception being handled."""
    return {"class": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
