"""Keys of a composed config that nothing reads, or that are missing."""

from __future__ import annotations

import dataclasses
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config.schema import Schema
from harness.errors import refuse

LARGEST = 100_000  # bytes of a stored config; usual are 3,000


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


def read_stored(path: Path) -> DictConfig:
    """A run's config.yaml, with the schema's defaults for new keys and without those that nothing reads any more.

    The science hash decides whether the run still matches. It is never tracked again. The file may be a stranger's:
    what is large, refers to itself or reads this machine's environment is refused. Raises BadInput.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST or text.count(b"[") + text.count(b"{") > 500:  # deep nesting takes quadratic time
            raise ValueError("too large")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ValueError("a YAML alias")
        if b"${" in text:
            raise ValueError("an interpolation ${…}")
        plain = yaml.safe_load(text)
        if not isinstance(plain, dict):
            raise ValueError("not a mapping")
        known = _known(plain, Schema) | {"tracking": {"name": "none"}}
        return DictConfig(OmegaConf.merge(OmegaConf.structured(Schema), known))
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        expected = "the file that the run wrote"
        raise refuse(str(path), f"not a run's config ({reason})", expected=expected, remedy="Restore it.") from None


def _known(saved: dict[Any, Any], schema: type) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, kind in get_type_hints(schema).items():
        if key in saved:
            value = saved[key]
            nested = is_dataclass(kind) and isinstance(value, dict)
            kept[key] = _known(value, kind) if nested else value
    return kept
