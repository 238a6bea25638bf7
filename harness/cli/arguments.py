"""`key=value` arguments of the entry points that need no config tree, checked against a dataclass."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, TypeVar, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from adapters import problem
from harness.config.explain import near

T = TypeVar("T")
EXPECTED = {
    "str": "a text",
    "bool": "true or false",
    "int": "an integer",
    "int | None": "an integer",
    "list[str]": "texts separated by commas",
}


def parse(schema: type[T], argv: list[str], doc: str) -> T:
    """An instance of `schema` from `key=value` words. --help prints `doc`; bad input raises SystemExit(line).

    A field without a default is required. List items are separated by commas, and lists may not be empty. Strings
    are literal, since an id may look like a number or like YAML. EXPECTED lists the types a field may have.
    """
    if any(word in ("-h", "--help") for word in argv):
        print(doc.strip())
        raise SystemExit(0)
    declared: Any = fields(schema)  # type: ignore[arg-type]
    types = {f.name: f.type.__name__ if isinstance(f.type, type) else str(f.type) for f in declared}
    values = OmegaConf.structured(schema)
    typed: list[str] = []
    for word in argv:
        key, equals, text = word.partition("=")
        if not equals or key not in types:
            raise SystemExit(_unknown(word, list(types)))
        try:
            values[key] = _value(types[key], text)
        except (OmegaConfBaseException, yaml.YAMLError):
            expected = EXPECTED[types[key]]
            raise SystemExit(problem(key, "wrong type", got=text, expected=expected, remedy="See --help.")) from None
        typed.append(key)
    required = [f.name for f in declared if f.default is MISSING and f.default_factory is MISSING]
    missing = [n for n in required if n not in typed or values[n] == ""] + [n for n in typed if values[n] == []]
    if missing:
        raise SystemExit(problem(missing[0], "missing", expected=f"{missing[0]}=<value>", remedy="See --help."))
    result: Any = OmegaConf.to_object(values)
    return cast(T, result)


def _unknown(word: str, keys: list[str]) -> str:
    key, equals, value = word.lstrip("-").partition("=")
    meant = near(key, keys) if equals or word.startswith("-") else ""
    remedy = f"Did you mean {meant}={value or '…'}?" if meant else "See --help."
    expected = f"one of {'=, '.join(keys)}="
    return problem(word.partition("=")[0], "unknown argument", got=word, expected=expected, remedy=remedy)


def _value(kind: str, text: str) -> Any:
    if kind.startswith("list["):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text if kind == "str" else yaml.safe_load(text)
