"""Before Hydra takes over: every job of the command line is composed and validated, and errors are said in one line."""

from __future__ import annotations

import difflib
import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from harness.schema import CONF, Schema

failed: list[str] = []  # jobs of this process's sweep that failed: overrides and error
GROUPS = tuple(sorted(p.name for p in CONF.iterdir() if p.is_dir()))


def preflight(argv: list[str]) -> None:
    """Validates all jobs that `argv` asks for, before the first one starts.

    Raises SystemExit with one line for the first thing that is wrong. Does nothing for --help, --cfg and the like.
    """
    args = get_args_parser().parse_args(argv)
    if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
        return
    for cfg in compositions(args.overrides, multirun=args.multirun):
        from harness.job import job_from

        job_from(cfg)


def compositions(overrides: list[str], *, multirun: bool) -> Iterator[DictConfig]:
    """One composed config per job. Raises SystemExit with one line where Hydra would print several."""
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        swept = [o for o in parsed if o.is_sweep_override()]
        if swept and not multirun:
            key = swept[0].key_or_group
            got = str(swept[0].input_line).split("=", 1)[1]
            from adapters._errors import problem

            raise SystemExit(
                problem(key, "several values", got=got, expected="one value", remedy="Add -m for a sweep.")
            )
        choices = [list(o.sweep_string_iterator()) if o.is_sweep_override() else [""] for o in parsed]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            for values in itertools.product(*choices):
                lines = [_rebuild(o, v) for o, v in zip(parsed, values, strict=True)]
                yield compose("config", overrides=lines)
    except (HydraException, OmegaConfBaseException) as error:
        raise SystemExit(one_line(error, overrides)) from None


def _rebuild(override: Any, value: str) -> str:
    """The override with one value of its sweep."""
    if not override.is_sweep_override():
        return str(override.input_line)
    return f"{override.input_line.split('=', 1)[0]}={value}"


def one_line(error: Exception, overrides: list[str]) -> str:
    """Hydra's and OmegaConf's errors in the project's form."""
    from adapters._errors import problem  # imports torch, which only a message may cost

    text = str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return problem(
            group or "config", "unknown option", got=option, expected=f"one of {', '.join(error.options or [])}"
        )
    unknown = re.search(
        r"(?:Could not override|Could not append to config)\s+'([^']+)'|Key '([^']+)' (?:is )?not in", text
    )
    key = _full_key(text) or (next(g for g in unknown.groups() if g) if unknown else None)
    got = next(
        (o.split("=", 1)[1] for o in overrides if key and o.lstrip("+~").split("=", 1)[0] == key and "=" in o), None
    )
    shown = {} if got is None else {"got": got}
    wrong_type = re.search(
        r"of type '[^']*' could not be converted to (\w+)|Value '[^']*' \(?.*is not a valid|Cannot convert", text
    )
    if key and wrong_type:
        return problem(key, "wrong type", **shown, expected=_type_of(key, wrong_type[1]))
    if key and unknown:
        known = [f.name for f in fields(Schema)]
        near = difflib.get_close_matches(key.split(".")[-1], [*known, *GROUPS], n=1)
        remedy = f"Did you mean {near[0]}?" if near else f"Keys are {', '.join(known)}."
        return problem(key, "unknown key", **shown, remedy=remedy)
    first = " ".join(line.strip() for line in text.splitlines() if line.strip() and "HYDRA_FULL_ERROR" not in line)
    return problem("config", first.rstrip("."))


def _full_key(text: str) -> str | None:
    found = re.search(r"full_key: (\S+)", text)
    return found[1] if found else None


def _type_of(key: str, kind: str | None) -> str:
    names = {"Integer": "an integer", "Float": "a number", "Boolean": "true or false", "String": "a text"}
    return names.get(kind or "", kind or "another type")


def exit_by_failures() -> None:
    """Names every failed job of the sweep that has just ended; raises SystemExit(1) when there is one."""
    if failed:
        print(f"{len(failed)} job(s) failed:", *failed, sep="\n  ", file=sys.stderr, flush=True)
        raise SystemExit(1)
