"""Keys of a config: unknown and deleted ones, and those of a config that an older version stored."""

from __future__ import annotations

from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config.schema import Schema
from harness.errors import reason_of, refuse

LARGEST = 100_000  # bytes of a stored config; usual are 3,000


def refuse_unknown_keys(cfg: DictConfig, schema: type = Schema, prefix: str = "") -> None:
    """Raises BadInput for what Hydra accepts although nothing reads it (`+foo=1`), and for a deleted key (`~seed`)."""
    kinds = get_type_hints(schema)
    for key in kinds.keys() - cfg.keys():
        raise refuse(f"{prefix}{key}", "required key was deleted", remedy=f"Drop `~{prefix}{key}`.")
    for key in map(str, cfg):
        if key not in kinds:
            expected = f"one of {', '.join(sorted(kinds))}"
            raise refuse(f"{prefix}{key}", "unknown key", got=cfg[key], expected=expected)
        if is_dataclass(kinds[key]) and not OmegaConf.is_missing(cfg, key):
            refuse_unknown_keys(cfg[key], kinds[key], f"{prefix}{key}.")


def read_stored(path: Path) -> DictConfig:
    """A run's config.yaml, with today's defaults for new keys and without keys that nothing reads any more.

    The science hash decides whether the run still matches; tracking is off. The file may be downloaded: raises BadInput
    for a large one, for YAML aliases, and for interpolations, which could read this machine's environment.
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
        what, expected = f"not a run's config ({reason_of(error)})", "the file that the run wrote"
        raise refuse(str(path), what, expected=expected, remedy="Restore it.") from None


def _known(saved: dict[Any, Any], schema: type) -> dict[str, Any]:
    kinds = get_type_hints(schema)
    known = {k: v for k, v in saved.items() if k in kinds}
    return {k: _known(v, kinds[k]) if is_dataclass(kinds[k]) and isinstance(v, dict) else v for k, v in known.items()}
