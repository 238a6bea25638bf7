"""Keys of a composed config that nothing reads, or that are missing."""

from __future__ import annotations

import dataclasses

from omegaconf import DictConfig, OmegaConf

from harness.bad_input import refuse
from harness.schema import Schema


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
