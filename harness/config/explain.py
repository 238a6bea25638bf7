"""Hydra's and OmegaConf's errors in the project's form, with a guess at the intended key or option."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import yaml
from hydra.errors import MissingConfigException

from adapters import problem
from harness.config.schema import Schema
from harness.paths import CONF

TYPES = {"integer": "an integer", "float": "a number", "string": "a text"}
TYPES |= dict.fromkeys(("boolean", "bool"), "true or false")


def explained(error: Exception, overrides: list[str]) -> str:
    """An error of Hydra or OmegaConf as one line about the command line."""
    if isinstance(error, AssertionError | AttributeError):  # Hydra's own, when an override meets null
        return problem("command line", "Hydra cannot apply these overrides", got=" ".join(overrides))
    text = f"{error}\n{error.__cause__ or ''}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = list(error.options or [])
        expected, remedy = f"one of {', '.join(options)}", did_you_mean(near(option, options))
        return problem(group or "config", "unknown option", got=option, expected=expected, remedy=remedy)
    named = re.search(r"Could not (?:override|append to config)\s+'([^']+)'|Key '([^']+)' (?:is )?not in", text)
    full = re.search(r"full_key: (\S+)", text)
    key = full[1] if full else (named[1] or named[2]) if named else None
    by_key = {o.lstrip("+~").split("=", 1)[0]: o.split("=", 1)[1] for o in overrides if "=" in o}
    shown = {"got": by_key[key]} if key in by_key else {}
    wrong_type = re.search(r"(?:converted to|not a valid) (\w+)|Cannot convert", text)
    if key and wrong_type:
        expected = TYPES.get((wrong_type[1] or "").lower(), "another type")
        return problem(key, "wrong type", **shown, expected=expected)
    if key and named:
        defaults = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))["defaults"]
        variant = by_key.get("variant") or next(d["variant"] for d in defaults if "variant" in d)
        inside = sorted(_variant_keys(variant)) if key.startswith("variant.") else []
        keys = inside or [*_schema_keys(Schema), *_variant_keys(variant)]
        what = f"unknown key of {variant}" if inside else "unknown key"
        remedy = did_you_mean(near(key, keys)) or (f"Keys: {', '.join(inside)}." if inside else "See --help.")
        return problem(key, what, **shown, remedy=remedy)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return problem("command line", lines[0].rstrip("."), remedy="Overrides look like key=value; see --help.")


def near(word: str, known: list[str]) -> str:
    """The one of `known` that was probably meant, or "": same last part, beginning, slip, initials; case is ignored."""
    parent, _, last = word.lower().rpartition(".")
    keys = {k.rpartition(".")[2].lower(): k for k in reversed(known)}  # last part → key
    keys |= {k.rpartition(".")[2].lower(): k for k in known if k.rpartition(".")[0].lower() == parent}
    starts = [n for n in keys if last and n.startswith(last)]
    slips = sorted(difflib.get_close_matches(last, keys), key=lambda n: sorted(n) != sorted(last))  # swaps first
    initials = "".join(part[:1] for part in last.split("_"))  # learning_rate → lr
    meant = [last] if last in keys else starts if len(starts) == 1 else [*slips, *starts]
    meant += [initials] if "_" in last and initials in keys else []
    return keys[meant[0]] if meant else ""


def did_you_mean(option: str) -> str:
    return f"Did you mean {option}?" if option else ""


def _schema_keys(schema: Any, prefix: str = "") -> Iterator[str]:
    """Every key that a user may set, dotted."""
    kinds = get_type_hints(schema)
    for f in fields(schema):
        yield prefix + f.name
        if is_dataclass(kinds[f.name]):
            yield from _schema_keys(kinds[f.name], f"{prefix}{f.name}.")


def _variant_keys(variant: str) -> list[str]:
    path = CONF / "variant" / f"{variant}.yaml"
    keys = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return [f"variant.{k}" for k in keys if k not in ("name", "defaults_by_benchmark")]
