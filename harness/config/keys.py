"""Keys of a composed config that nothing reads, or that are missing."""

from __future__ import annotations

import dataclasses
from dataclasses import is_dataclass
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from harness.config.schema import Schema
from harness.errors import refuse


def refuse_unknown_keys(cfg: DictConfig) -> None:
    """Hydra accepts `+foo=1` for keys the schema lacks; nothing here would read them."""

    def visit(node: DictConfig, schema: type, prefix: str) -> None:
        known = {f.name for f in dataclasses.fields(schema)}
        if OmegaConf.get_type(node) is schema and (
            gone := sorted(known - set(node))
        ):  # `~seed`; old records may lack keys
            raise refuse(f"{prefix}{gone[0]}", "removed, but needed", remedy="Leave it out of the command line.")
        for key in map(str, node):
            if key not in known:
                where, got = f"{prefix}{key}", node[key]
                raise refuse(where, "unknown key", got=got, expected=f"one of {', '.join(sorted(known))}")
            kind = OmegaConf.get_type(node, key)
            if isinstance(kind, type) and dataclasses.is_dataclass(kind) and not OmegaConf.is_missing(node, key):
                visit(node[key], kind, f"{prefix}{key}.")

    visit(cfg, Schema, "")


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
