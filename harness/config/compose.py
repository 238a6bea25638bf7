"""Composing configs as Hydra does, one per job."""

from __future__ import annotations

import copy
import functools
import itertools
import re
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from harness.config.explain import explained
from harness.config.job import Job
from harness.config.schema import register
from harness.config.validate import job_from
from harness.errors import refuse
from harness.paths import CONF

MOST = 100_000  # values of one key in a sweep
ADD_M = "Add -m for a sweep."


def compositions(overrides: list[str], *, multirun: bool) -> Iterator[DictConfig]:
    """One composed config per job; none for a sweeper that chooses jobs one by one. Raises SystemExit with one line.

    Swept values are set on a copy of the composed groups, by the call that Hydra uses: a grid of 1,275 jobs composes
    once per choice of groups, not 1,275 times.
    """
    lines = overrides
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()  # knows the options, for glob(*)
            parser = OverridesParser.create(config_loader=loader)
            parsed = parser.parse_overrides(overrides)
            if not multirun and (swept := [o for o in parsed if o.is_sweep_override()]):
                where, got = str(swept[0].key_or_group), _text(swept[0])
                raise refuse(where, "several values", got=got, expected="one value", remedy=ADD_M)
            for o in parsed:
                _check_option(o, loader)
            # Hydra's own settings come from unswept overrides; the first swept variant decides the keys of `variant.`.
            decisive = [o for o in parsed if not o.is_sweep_override() or o.key_or_group == "variant"]
            lines = [_lines(o)[0] for o in decisive]
            first, hydra = _composed(lines)
            params = _checked_sweep(hydra, parsed, multirun=multirun)
            if params is None:
                return
            if multirun:  # of a repeated key the last counts, as in Hydra's sweeper
                both = parser.parse_overrides([*params, *overrides])
                parsed = list({o.get_key_element(): o for o in both}.values())
            composed = {tuple(lines): first}
            is_value = [_sets_a_value(o, loader) for o in parsed]
            for lines in map(list, itertools.product(*map(_lines, parsed))):
                whole = tuple(itertools.compress(lines, [not v for v in is_value]))
                if whole not in composed:
                    composed[whole], own = _composed(list(whole))
                    if own.sweeper != hydra.sweeper:
                        what = "an experiment with a sweep of its own cannot be swept"
                        raise refuse("experiment", what, remedy="Give one experiment at a time.")
                cfg = copy.deepcopy(composed[whole])
                for o in parser.parse_overrides(list(itertools.compress(lines, is_value))):
                    OmegaConf.update(cfg, o.key_or_group, o.value(), merge=True)
                yield cfg
    except (HydraException, OmegaConfBaseException, ValueError, AssertionError, AttributeError) as error:
        raise SystemExit(explained(error, lines)) from None


def _composed(lines: list[str]) -> tuple[DictConfig, DictConfig]:
    """The config of these overrides, and Hydra's own part of it."""
    cfg = compose("config", overrides=lines, return_hydra_config=True)
    hydra = cfg.hydra
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg, hydra


def _checked_sweep(hydra: DictConfig, parsed: list[Any], *, multirun: bool) -> list[str] | None:
    """The overrides that a config itself sweeps; None for a sweeper that chooses jobs one by one.

    Raises BadInput for settings that only Hydra would follow, so that the jobs are those that were validated.
    """
    if hydra.mode is not None and (hydra.mode == RunMode.MULTIRUN) != multirun:
        raise refuse("hydra.mode", "cannot be set", got=hydra.mode.name, remedy="Use -m, or leave it out.")
    if hydra.searchpath:
        path = OmegaConf.to_container(hydra.searchpath)
        raise refuse("hydra.searchpath", "configs come from conf/ alone", got=path, remedy="Put the files there.")
    params = [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()]
    if not multirun:
        if params:
            experiment = hydra.runtime.choices["experiment"]
            raise refuse("experiment", f"sweeps {', '.join(params)}", got=experiment, remedy=ADD_M)
        return []
    if not str(hydra.sweeper._target_).endswith(".BasicSweeper"):
        return None
    for o in parsed:
        if o.is_sweep_override() and not o.is_discrete_sweep():
            what, remedy = "an interval has no list of values", "Give values, or another hydra/sweeper."
            raise refuse(o.key_or_group, what, got=_text(o), remedy=remedy)
    return params


def _check_option(override: Any, loader: Any) -> None:
    """Hydra takes no number for an option: `quantization=4` would be an error that names neither key nor options."""
    options = loader.get_group_options(override.key_or_group)
    for line in _lines(override) if options else ():
        if re.fullmatch(r"[\d.]+", option := line.partition("=")[2]):
            raise MissingConfigException("", f"{override.key_or_group}/{option}", options)


def _lines(override: Any) -> list[str]:
    """The override with each value of its sweep. Raises BadInput for none or far too many."""
    if not override.is_sweep_override():
        return [override.input_line]
    swept = override.sweep_string_iterator() if override.is_discrete_sweep() else [override.value().start]
    values = list(itertools.islice(swept, MOST + 1))
    if not 1 <= len(values) <= MOST:
        what = "too many values" if values else "nothing to sweep"
        raise refuse(override.key_or_group, what, got=_text(override), expected=f"1 to {MOST:,} values")
    return [f"{override.input_line.split('=', 1)[0]}={value}" for value in values]


def in_quotes(value: str) -> str:
    """`value` as a string of Hydra's grammar: backslashes count only before a quote."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value) + "'"


def _text(override: Any) -> str:
    return str(override.input_line).split("=", 1)[1]


def _sets_a_value(override: Any, loader: Any) -> bool:
    """A swept `key=value` of a plain key, which no other choice depends on."""
    if not override.is_sweep_override() or override.type != OverrideType.CHANGE or override.package is not None:
        return False
    return not loader.get_group_options(override.key_or_group)


def default_job(job: Job) -> Job:
    """The job with the same benchmark, model, variant and quantization, and defaults for the rest."""
    groups = {"benchmark": job.benchmark, "variant": job.variant, "quantization": job.quantization}
    groups["model"] = job.model.name
    if job.model.name == "hub":  # has no id of its own
        groups["model.id"] = in_quotes(job.model.id)
    return _default_job(*(f"{key}={value}" for key, value in groups.items()))


@functools.lru_cache(maxsize=256)
def _default_job(*overrides: str) -> Job:
    """Cached: composing takes a tenth of a second, and a sweep needs the same default for every job."""
    register()
    inside = GlobalHydra.instance().is_initialized()  # hydra.main, with the same configs
    with nullcontext() if inside else initialize_config_dir(str(CONF), version_base="1.3"):
        return job_from(compose("config", overrides=list(overrides)))
