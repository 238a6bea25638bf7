"""Rooms: imports point down only, no room reaches into another's private names, and every module has a room."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from harness.paths import ROOT

ENTRY_POINTS = ("train", "eval_gsm8k", "cost_report")
# From the top down. A module may import from its own room and from the lines below its own.
ORDER = (
    ("entry points", "tools"),
    ("cli",),
    ("run", "reevaluate"),
    ("report",),
    ("records",),
    ("measure",),
    ("evaluation", "training"),
    ("data",),
    ("inputs",),
    ("config",),
    ("ground",),
    ("adapters",),
)
GROUND = ("errors", "paths", "device", "hashing", "files", "loss", "scoring", "numbers", "sentence", "tiny")
LINE = {room: n for n, rooms in enumerate(ORDER) for room in rooms}

Sources = dict[str, str]  # module → its source


def room_of(module: str) -> str | None:
    """The room of a module of ours; None for a foreign one and for `harness` itself. Raises KeyError for no room."""
    first, _, rest = module.partition(".")
    if first in ("tools", "adapters"):
        return first
    if first in ENTRY_POINTS:
        return "entry points"
    if first != "harness" or not rest:
        return None
    room = rest.partition(".")[0]
    room = "ground" if room in GROUND else room
    LINE[room]
    return room


def uses(module: str, tree: ast.Module, modules: set[str]) -> Iterator[tuple[int, str, str]]:
    """Line, module and name (empty: the module itself) of all that a source imports or takes off an imported module."""
    bound: dict[str, str] = {}  # local name → module
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ""
                first = alias.name.partition(".")[0]
                bound[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            parent = module.split(".")[: -node.level] if node.level else []
            source = ".".join([*parent, *filter(None, [node.module])])
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                if whole in modules:
                    yield node.lineno, whole, ""
                    bound[alias.asname or alias.name] = whole
                else:
                    yield node.lineno, source, alias.name
    for node in ast.walk(tree):
        chain = attributes(node)
        if len(chain) > 1 and chain[0] in bound:
            parts = [*bound[chain[0]].split("."), *chain[1:]]
            depth = max((n for n in range(1, len(parts) + 1) if ".".join(parts[:n]) in modules), default=0)
            if 0 < depth < len(parts):
                yield node.lineno, ".".join(parts[:depth]), parts[depth]  # type: ignore[attr-defined]


def attributes(node: ast.AST) -> list[str]:
    """`a.b.c` as its names; empty for what is no such chain."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return [node.id, *names] if isinstance(node, ast.Name) else []


def faults(sources: Sources) -> list[str]:
    """One line for every import that does not point down and every private name of another room."""
    modules = set(sources) | {m.rpartition(".")[0] for m in sources if "." in m}
    found = []
    for module, source in sources.items():
        try:
            own = room_of(module)
        except KeyError:
            found.append(f"{module}: belongs to no room")
            continue
        if own is None:
            continue
        for line, target, name in uses(module, ast.parse(source), modules):
            try:
                room = room_of(target)
            except KeyError:
                found.append(f"{module}:{line}: {target} belongs to no room")
                continue
            if room in (None, own):
                continue
            assert room is not None
            if LINE[room] <= LINE[own]:
                found.append(f"{module}:{line}: {own} imports {target} of {room}")
            if name.startswith("_") and not name.startswith("__"):
                found.append(f"{module}:{line}: private name {target}.{name}")
    return list(dict.fromkeys(found))


def repository() -> Sources:
    files = [p for folder in ("harness", "tools", "adapters") for p in (ROOT / folder).rglob("*.py")]
    files += [ROOT / f"{name}.py" for name in ENTRY_POINTS]
    names = {p: p.relative_to(ROOT).with_suffix("").parts for p in files}
    return {".".join(n[:-1] if n[-1] == "__init__" else n): p.read_text() for p, n in sorted(names.items())}


def test_imports_point_down_and_private_names_stay_in_their_room() -> None:
    found = faults(repository())
    assert found == [], "\n".join(found)


def test_every_room_of_the_order_is_there() -> None:
    """Otherwise a renamed room would be checked by nothing."""
    assert {room_of(m) for m in repository()} - {None} == set(LINE)


BASE = {
    "harness": "",
    "harness.data.load": "def load(): ...\n_kept = {}\n",
    "harness.report.table": "",
    "harness.run": "",
    "harness.paths": "",
    "tools.bench": "",
    "adapters": "",
    "adapters._errors": "",
    "train": "",
}


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("harness.records.store", "from harness.data.load import load", None),
        ("harness.records.store", "import torch, harness\nfrom harness import paths\npaths._x.y()", "private name"),
        ("harness.records.store", "from harness.report.table import rows", "records imports harness.report.table"),
        ("harness.records.store", "def f():\n    import harness.report.table", ":2: records imports"),
        ("harness.records.store", "from harness.report import table", "records imports harness.report.table"),
        ("harness.records.store", "from ..report.table import rows", "records imports harness.report.table"),
        ("harness.records.store", "from ..data.load import load", None),
        ("harness.records.store", "if TYPE_CHECKING:\n    from harness.run import Run", "records imports harness.run"),
        ("harness.records.store", "from harness.records import ids; ids._x", None),
        ("harness.records.store", "from harness.data.load import _kept", "private name harness.data.load._kept"),
        (
            "harness.records.store",
            "from harness.data import load\nload._kept.clear()",
            "private name harness.data.load",
        ),
        ("harness.records.store", "import harness.data.load as d\nd._kept", "private name harness.data.load._kept"),
        (
            "harness.records.store",
            "import harness.data.load\nharness.data.load._kept",
            "private name harness.data.load",
        ),
        ("harness.records.store", "from harness.data import load\nload.__doc__", None),
        ("harness.records.store", "from harness.new import x", "harness.new belongs to no room"),
        ("harness.new", "", "harness.new: belongs to no room"),
        ("harness.training.loop", "from harness.evaluation.predict import x", "training imports harness.evaluation"),
        ("harness.evaluation.predict", "import harness.training.loop", "evaluation imports harness.training"),
        ("harness.reevaluate", "from harness import run", "reevaluate imports harness.run"),
        ("harness.cli.sweep", "from tools.bench import main", "cli imports tools.bench"),
        ("cost_report", "import tools.bench", "entry points imports tools.bench"),
        ("tools.other", "from tools.bench import _private; from harness.run import run", None),
        ("tools.other", "from harness.run import _load", "private name harness.run._load"),
        ("tools.other", "import train", "tools imports train"),
        ("adapters.lora", "from adapters._errors import problem", None),
        ("adapters.lora", "from harness.paths import ROOT", "adapters imports harness.paths"),
        ("harness.errors", "from adapters._errors import problem; from harness.paths import _x", None),
        ("harness.errors", "import adapters as ad\nad._errors.problem, ad._x", "private name adapters._x"),
        ("harness.paths", "import harness.config.job", "ground imports harness.config.job"),
    ],
)
def test_the_check_can_fail(module: str, source: str, expected: str | None) -> None:
    found = faults(BASE | {"harness.training.loop": "", "harness.records.ids": "", module: source})
    assert len(found) == (expected is not None), found
    assert all(str(expected) in line for line in found), found


def test_the_main_path_can_be_read_in_one_sitting() -> None:
    """The files that docs/architecture.md lists, in order: at most 8, and 600 lines together."""
    section = (ROOT / "docs" / "architecture.md").read_text().split("## The main path")[1].split("\n## ")[0]
    files = re.findall(r"^\d\. `([\w/.]+)`", section, re.MULTILINE)
    assert files[0] == "train.py"
    assert files[-1] == "harness/records/store.py"
    assert len(files) <= 8
    assert sum(len((ROOT / f).read_text().splitlines()) for f in files) <= 600
