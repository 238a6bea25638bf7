"""Command-line words: quoted where Hydra's grammar needs it, refused in one line where they look like a slip."""

from __future__ import annotations

import argparse
import os
import re
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from harness.config.compose import in_quotes
from harness.errors import refuse

OWN_CONFIGS = ("config_dir", "config_name", "config_path", "experimental_rerun")  # Hydra's options
ANOTHER = r"\s[\w.]+="  # begins a second override


def for_hydra(argv: list[str]) -> list[str]:
    """`argv` with -m first, `~` as the home folder, and values quoted that Hydra's grammar cannot read (`it's`, `a=b`).

    Hydra reads no override after a -m in the middle, and knows neither `~` nor such values. Quoted, they mean what was
    typed.
    """
    multirun = [word for word in argv if word in ("-m", "--multirun")]
    return multirun[:1] + [_quoted(word) for word in argv if word not in multirun]


def _quoted(word: str) -> str:
    word = re.sub(r"=~(?=/|$)", lambda _: f"={os.path.expanduser('~')}", word, count=1)
    plain = re.fullmatch(r"([+~]*[\w./@:-]+)=(\S|\S.*\S)", word)
    if not plain or re.search(ANOTHER + r"|[\[\]{},]", plain[2]):
        return word
    try:
        OverridesParser.create().parse_override(f"x={plain[2]}")
    except HydraException:
        return f"{plain[1]}={in_quotes(plain[2])}"
    return word


def arguments(argv: list[str]) -> argparse.Namespace:
    """Hydra's own options and overrides. Raises BadInput for words that Hydra would misread or ignore."""
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        args, unknown = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise refuse("command line", str(error), remedy="See --help.") from None
    if unknown:
        _refuse_option(unknown[0], argv)
    for name in OWN_CONFIGS:
        if (value := getattr(args, name)) is not None:
            option = "--" + name.replace("_", "-")
            raise refuse(option, "configs come from conf/ alone", got=value, remedy="Put the file there.")
    if args.run and args.multirun:
        raise refuse(
            "command line", "--run and --multirun exclude each other", got="--run --multirun", remedy="Leave one out."
        )
    if not (args.cfg or args.help) and (args.package is not None or args.resolve):
        option = "--resolve" if args.resolve else "--package"
        raise refuse(option, "only shapes what --cfg shows", remedy="Add --cfg job, or leave it out.")
    for word in args.overrides:
        _check_override(word, args.overrides)
    return args


def _refuse_option(word: str, argv: list[str]) -> NoReturn:
    name, equals, value = word.lstrip("-").partition("=")
    if not word.startswith("-"):
        raise refuse("command line", "an override after an option", got=word, remedy="Put options first.")
    if not equals:
        value = next((w for w in argv[argv.index(word) + 1 :][:1] if "=" not in w), "…")
    raise refuse("command line", "unknown option", got=word, remedy=f"Write {name}={value}.")


def _check_override(word: str, words: list[str]) -> None:
    """Raises BadInput for slips around `=` and commas, of the shell or of habit."""
    key, equals, value = word.partition("=")
    if re.match(r"[^\"']*" + ANOTHER, value):
        raise refuse("command line", "two overrides in one word", got=word, remedy="Leave the quotes out.")
    if not key.strip() or key != key.strip() or value[:1].isspace():
        joined = f"{key.strip()}={value.strip()}" if equals and key.strip() else "key=value"
        raise refuse("command line", "spaces around =", got=word, remedy=f"Write {joined}.")
    if value.endswith(",") and "[" not in value:
        rest = words[words.index(word) + 1 :]
        joined = word + rest[0] if rest and "=" not in rest[0] else word.rstrip(",")
        raise refuse(key, "a value ends with a comma", got=value, remedy=f"No spaces between values: {joined}.")
