"""Composing configs as Hydra does, one per job, with its errors in one line."""

from __future__ import annotations

import copy
import difflib
import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from adapters import problem
from harness.config.job import Job
from harness.config.schema import Schema, register
from harness.config.validate import job_from
from harness.paths import CONF

TYPES = {
    "Integer": "an integer",
    "Float": "a number",
    "Boolean": "true or false",
    "bool": "true or false",
    "String": "a text",
}


def compositions(overrides: list[str], *, multirun: bool) -> Iterator[DictConfig]:
    """One composed config per job. Raises SystemExit with one line where Hydra would print several.

    Values that are swept are set on a copy of what their groups compose to, by the call that Hydra uses for them: a
    grid of 1,275 jobs composes once per choice of groups, not 1,275 times.
    """
    lines = overrides
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()  # which options there are, for glob(*)
            parser = OverridesParser.create(config_loader=loader)
            parsed = parser.parse_overrides(overrides)
            if multirun:
                first = [_rebuild(o, next(o.sweep_string_iterator()) if o.is_sweep_override() else "") for o in parsed]
                params = _sweeper_params(lines := first)
                if params is None:
                    return
                parsed = parser.parse_overrides([*params, *overrides])
            swept = [o for o in parsed if o.is_sweep_override()]
            if swept and not multirun:
                raise _not_a_sweep(swept[0])
            choices = [list(o.sweep_string_iterator()) if o.is_sweep_override() else [""] for o in parsed]
            plain = [_sets_a_value(o, loader) for o in parsed]
            composed: dict[tuple[str, ...], DictConfig] = {}
            for values in itertools.product(*choices):
                lines = [_rebuild(o, v) for o, v in zip(parsed, values, strict=True)]
                whole = tuple(line for line, value in zip(lines, plain, strict=True) if not value)
                if whole not in composed:
                    composed[whole] = compose("config", overrides=list(whole))
                cfg = copy.deepcopy(composed[whole])
                for o in parser.parse_overrides([line for line, value in zip(lines, plain, strict=True) if value]):
                    OmegaConf.update(cfg, o.key_or_group, o.value(), merge=True)
                yield cfg
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise SystemExit(one_line(error, lines)) from None


def _sweeper_params(overrides: list[str]) -> list[str] | None:
    """What an experiment file sweeps (`hydra.sweeper.params`); None for a sweeper that chooses jobs one by one."""
    sweeper = compose("config", overrides=overrides, return_hydra_config=True).hydra.sweeper
    if not str(sweeper._target_).endswith(".BasicSweeper"):
        return None
    return [f"{key}={value}" for key, value in (sweeper.params or {}).items()]


def _sets_a_value(override: Any, loader: Any) -> bool:
    """A swept `key=value` of a plain key, which no other choice depends on."""
    plain = override.is_sweep_override() and override.type == OverrideType.CHANGE and override.package is None
    return plain and not loader.get_group_options(override.key_or_group)


def _not_a_sweep(override: Any) -> SystemExit:
    got = str(override.input_line).split("=", 1)[1]
    key, remedy = override.key_or_group, "Add -m for a sweep."
    return SystemExit(problem(key, "several values", got=got, expected="one value", remedy=remedy))


def _rebuild(override: Any, value: str) -> str:
    """The override with one value of its sweep."""
    if not override.is_sweep_override():
        return str(override.input_line)
    return f"{override.input_line.split('=', 1)[0]}={value}"


def one_line(error: Exception, overrides: list[str]) -> str:
    """Hydra's and OmegaConf's errors in the project's form."""
    text = f"{error}\n{error.__cause__ or ''}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = f"one of {', '.join(error.options or [])}"
        return problem(group or "config", "unknown option", got=option, expected=options)
    named = re.search(r"Could not (?:override|append to config)\s+'([^']+)'|Key '([^']+)' (?:is )?not in", text)
    full = re.search(r"full_key: (\S+)", text)
    key = full[1] if full else (named[1] or named[2]) if named else None
    by_key = {o.lstrip("+~").split("=", 1)[0]: o.split("=", 1)[1] for o in overrides if "=" in o}
    shown = {"got": by_key[key]} if key in by_key else {}
    wrong_type = re.search(r"could not be converted to (\w+)|is not a valid (\w+)|Cannot convert", text)
    if key and wrong_type:
        return problem(
            key, "wrong type", **shown, expected=TYPES.get(wrong_type[1] or wrong_type[2] or "", "another type")
        )
    if key and named:
        known = _keys_beside(key, by_key)
        near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1)
        remedy = f"Did you mean {near[0]}?" if near else f"Keys there: {', '.join(known)}."
        return problem(key, "unknown key", **shown, remedy=remedy)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return problem("command line", lines[0].rstrip("."), remedy="Overrides look like key=value; see --help.")


def _keys_beside(key: str, overrides: dict[str, str]) -> list[str]:
    """The valid keys beside a mistyped one: of the schema, a nested part of it, or the chosen variant's YAML."""
    parent = key.rpartition(".")[0]
    if parent == "variant":
        defaults = yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]
        usual = next(d["variant"] for d in defaults if "variant" in d)
        chosen = CONF / "variant" / f"{overrides.get('variant', usual)}.yaml"
        return [k for k in yaml.safe_load(chosen.read_text()) if k not in ("name", "defaults_by_benchmark")]
    schema: Any = Schema
    for part in filter(None, parent.split(".")):
        schema = get_type_hints(schema).get(part)
        if not is_dataclass(schema):
            return []
    return [f.name for f in fields(schema)]


def default_job(job: Job) -> Job:
    """The job of the same benchmark, model, variant and quantization with nothing else set."""
    overrides = [f"benchmark={job.benchmark}", f"variant={job.variant}", f"quantization={job.quantization}"]
    overrides.append(f"model={job.model.name}")
    if job.model.name == "hub":  # has no id of its own
        overrides += [f"model.id='{job.model.id}'"]
    return _default_job(tuple(overrides))


@functools.lru_cache(maxsize=256)
def _default_job(overrides: tuple[str, ...]) -> Job:
    """Cached: composing takes a tenth of a second, and a sweep needs the same default for every job."""
    register()
    if GlobalHydra.instance().is_initialized():  # inside hydra.main: the same configs are at hand
        return job_from(compose("config", overrides=list(overrides)))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return job_from(compose("config", overrides=list(overrides)))
