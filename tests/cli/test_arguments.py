"""`key=value` words against a dataclass: every type that a field may have, and one line for anything else."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass

import pytest

from harness.cli.arguments import parse


@dataclass
class Arguments:
    name: str
    count: int = 1
    limit: int | None = None
    check: bool = False
    names: list[str] = field(default_factory=lambda: ["all"])


def test_each_type_is_read_and_defaults_stay() -> None:
    words = ["name=1e3", "count=7", "limit=3", "check=true", "names=null, 1e3,a=b"]
    expected = Arguments("1e3", 7, 3, True, ["null", "1e3", "a=b"])
    assert parse(Arguments, words, "") == expected
    assert parse(Arguments, ["name=x", "limit="], "") == Arguments("x")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "name: missing; expected name=<value>. See --help."),
        (["name="], "name: missing; expected name=<value>. See --help."),
        (["name=x", "names=,"], "names: missing; expected names=<value>. See --help."),
        (["name"], "name: unknown argument, got 'name'; expected one of name=, count=, limit=, "),
        (["--check", "name=x"], "--check: unknown argument, got '--check'; expected one of name=, "),
        (["name=x", "count=many"], "count: wrong type, got 'many'; expected an integer. See --help."),
        (["name=x", "count=[1"], "count: wrong type, got '[1'; expected an integer. See --help."),
        (["name=x", "check=maybe"], "check: wrong type, got 'maybe'; expected true or false. See --help."),
    ],
)
def test_bad_words_are_refused_in_one_line(words: list[str], line: str) -> None:
    with pytest.raises(SystemExit) as error:
        parse(Arguments, words, "")
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_help_prints_the_text_and_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(Arguments, ["count=many", "--help"], "What it does.\n")
    assert stopped.value.code == 0
    assert capsys.readouterr().out == "What it does.\n"


def test_types_may_be_objects_too() -> None:
    """As in a module without `from __future__ import annotations`."""
    schema = make_dataclass("Schema", [("names", list[str]), ("count", int), ("limit", int | None, None)])
    args = parse(schema, ["names=a,b", "count=2", "limit=3"], "")
    assert (args.names, args.count, args.limit) == (["a", "b"], 2, 3)  # type: ignore[attr-defined]
