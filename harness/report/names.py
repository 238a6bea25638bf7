"""What a reader calls a section or a row: the benchmark's own settings go without saying, others are named."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from omegaconf import OmegaConf

import adapters as ad
from harness.paths import CONF
from harness.records.record import one_line

# Settings of conf/benchmark/ that a record's `science` has by the same name.
BENCHMARK = ("steps", "batch_size", "max_length", "prompt", "valid_size", "eval_batch_size", "max_new_tokens")
PHRASES = {
    "steps": "{} steps",
    "batch_size": "batch {}",
    "eval_limit": "first {} questions",
    "max_new_tokens": "{} new tokens",
    "results_version": "results version {}",
    "scorer_version": "scorer {}",
}


@dataclass(frozen=True)
class Roles:
    """conf/report.yaml: the variant that the others are compared with, the untrained one, and the fully trained one."""

    baseline: str
    floor: str
    ceiling: str


def roles() -> Roles:
    return Roles(**_report()["report"])


@functools.cache
def _report() -> dict[str, Any]:
    report: dict[str, Any] = yaml.safe_load((CONF / "report.yaml").read_text())
    return report


# -- sections ----------------------------------------------------------------------------------------------------------
def known_settings() -> list[str]:
    """`<benchmark>-<model>` of the tables that come first, in their order."""
    return list(_report()["titles"])


def setting_name(setting: str) -> str:
    return str(_report()["titles"].get(setting, setting))


def changes(protocol: Mapping[str, Any], usual: Mapping[str, Any]) -> list[str]:
    """In words, the settings that both have and that differ."""
    names = sorted(k for k in protocol.keys() & usual.keys() if protocol[k] != usual[k])
    return [_phrase(name, protocol[name]) for name in names]


def _phrase(name: str, value: Any) -> str:
    text = one_line(f"{value:g}" if isinstance(value, float) else str(value))[:24]
    if text.startswith("sha256:"):
        return one_line(f"other {name}")
    if name in PHRASES:
        return PHRASES[name].format("all" if value is None else text)
    return one_line(f"{name.replace('_', ' ')} {text}")


@functools.cache
def _everywhere() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CONF / "config.yaml").read_text())
    return loaded


@functools.cache
def usual_protocol(benchmark: str) -> dict[str, Any]:
    """The benchmark's own settings, named as in a record's `science`; empty where conf/ has no such benchmark."""
    file = CONF / "benchmark" / f"{benchmark}.yaml"
    if not file.exists():
        return {}
    own, everywhere = yaml.safe_load(file.read_text()), _everywhere()
    train = {k: everywhere["train"][k] for k in ("weight_decay", "warmup", "clip")}
    return train | {"eval_limit": everywhere["eval"]["limit"]} | {k: own[k] for k in BENCHMARK}


# -- rows --------------------------------------------------------------------------------------------------------------
def row_name(variant: str, benchmark: str, science: Mapping[str, Any]) -> str:
    """`lora`, or `lora (r 16, targets all)` where settings differ from the variant's own in conf/variant/."""
    own = {k.removeprefix("adapter."): v for k, v in science.items() if k.startswith("adapter.")}
    different = changes(own, usual_adapter(variant, benchmark))
    different += changes(science, _usual_calibration(variant))
    return f"{variant} ({', '.join(different)})" if different else variant


@functools.cache
def _usual_calibration(variant: str) -> dict[str, Any]:
    """How many training examples the variant reads if nobody says otherwise; empty for a variant that is not here."""
    kind = ad.VARIANTS.get(variant)
    if kind is None:
        return {}
    reads = kind.calibration(kind.Config()) is ad.Calibration.required
    return {"calibration_examples": _everywhere()["train"]["calibration_examples"] if reads else 0}


@functools.cache
def usual_adapter(variant: str, benchmark: str) -> dict[str, Any]:
    """The variant's own settings for this benchmark; empty where conf/ has no such variant or benchmark."""
    file = CONF / "variant" / f"{variant}.yaml"
    if not file.exists():
        return {}
    loaded = yaml.safe_load(file.read_text())
    if benchmark not in loaded.get("defaults_by_benchmark", {benchmark: None}):
        return {}
    cfg = OmegaConf.create({"benchmark": {"name": benchmark}, "variant": loaded})
    resolved: Any = OmegaConf.to_container(cfg, resolve=True)
    settings: dict[str, Any] = resolved["variant"]
    return settings


def usual_lr(variant: str, benchmark: str) -> float | None:
    """The variant's default learning rate for this benchmark."""
    defaults = usual_adapter(variant, benchmark).get("defaults_by_benchmark", {})
    rate: float | None = defaults.get(benchmark, {}).get("lr")
    return rate


def family(method: str) -> str:
    """What a method trains, by its name here or in a published table (`DoRA`, `lora--llama-3.2-3B-rank32`)."""
    name = method.partition("--")[0].lower().replace("-", "_")
    return next((title for title, names in _report()["families"].items() if name in names), "other")
