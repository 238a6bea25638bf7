"""`key=value` arguments of the entry points that need no config tree, checked against a dataclass."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from adapters import problem

T = TypeVar("T")
TYPES = {"str": "a text", "bool": "true or false", "int": "an integer", "int | None": "an integer"}


def parse(schema: type[T], argv: list[str], doc: str) -> T:
    """An instance of `schema` from `key=value` words. --help prints `doc`; anything wrong raises SystemExit(line)."""
    if any(word in ("-h", "--help") for word in argv):
        print(doc.strip())
        raise SystemExit(0)
    declared: Any = fields(schema)  # type: ignore[arg-type]
    types = {f.name: f.type if isinstance(f.type, str) else getattr(f.type, "__name__", str(f.type)) for f in declared}
    checked = OmegaConf.structured(schema)
    given = set()
    for word in argv:
        key, equals, value = word.partition("=")
        if not equals or key not in types:
            expected = f"one of {'=, '.join(types)}="
            raise SystemExit(problem(key, "unknown argument", got=word, expected=expected, remedy="See --help."))
        try:
            # Texts are taken as they are: an id may look like a number or like YAML.
            checked[key] = value if types[key] == "str" else yaml.safe_load(value)
        except (OmegaConfBaseException, yaml.YAMLError):
            expected = TYPES.get(types[key], types[key])
            raise SystemExit(problem(key, "wrong type", got=value, expected=expected, remedy="See --help.")) from None
        given.add(key)
    needed = [f.name for f in declared if f.default is MISSING and f.default_factory is MISSING]
    if missing := [n for n in needed if n not in given or checked[n] == ""]:
        raise SystemExit(problem(missing[0], "missing", expected=f"{missing[0]}=<value>", remedy="See --help."))
    result: Any = OmegaConf.to_object(checked)
    return result
