"""A run's stored config.yaml as a config of today's program: keys have come and gone since it was written."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from harness.bad_input import refuse
from harness.schema import Schema


def with_todays_keys(saved: Any) -> DictConfig:
    """The stored config, filled with the schema's defaults for new keys; without those that nothing reads any more.

    Whether the run is still the same is for its science to tell. It is never tracked again.
    """
    plain = OmegaConf.to_container(saved)
    if not isinstance(plain, dict):
        raise refuse("config.yaml", "not a config", got=plain, expected="the file that the run wrote")
    known = _known(plain, Schema) | {"tracking": {"name": "none"}}
    return DictConfig(OmegaConf.merge(OmegaConf.structured(Schema), known))


def _known(saved: dict[Any, Any], schema: type) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, kind in get_type_hints(schema).items():
        if key in saved:
            value = saved[key]
            nested = is_dataclass(kind) and isinstance(value, dict)
            kept[key] = _known(value, kind) if nested else value
    return kept
