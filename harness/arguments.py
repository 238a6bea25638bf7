"""`key=value` arguments of the entry points that need no config tree, checked against a dataclass."""

from __future__ import annotations

import sys
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

T = TypeVar("T")


def parse(schema: type[T], argv: list[str], doc: str) -> T:
    """An instance of `schema` from `key=value` words. --help prints `doc`; anything wrong raises SystemExit(line)."""
    from adapters._errors import problem

    if any(word in ("-h", "--help") for word in argv):
        print(doc.strip())
        raise SystemExit(0)
    known = [f.name for f in fields(schema)]  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for word in argv:
        key, equals, value = word.partition("=")
        if not equals or key not in known:
            remedy = "See --help."
            raise SystemExit(
                problem(key, "unknown argument", got=word, expected=f"one of {'=, '.join(known)}=", remedy=remedy)
            )
        given[key] = OmegaConf.from_dotlist([f"value={value}"])["value"]
    needed = [f.name for f in fields(schema) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]
    if missing := [n for n in needed if n not in given]:
        raise SystemExit(problem(missing[0], "missing", expected=f"{missing[0]}=<value>", remedy="See --help."))
    try:
        checked: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), given))
    except OmegaConfBaseException as error:
        raise SystemExit(problem(sys.argv[0], str(error).splitlines()[0])) from None
    return checked
