"""SHA-256 of JSON values, of files, and of Python source as the interpreter sees it."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def sha256(value: Any) -> str:
    """SHA-256 of a JSON value, as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes. A file whose size and time have not changed is read once per process."""
    seen = path.stat()
    return _file_sha256(path.resolve(), seen.st_size, seen.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _file_sha256(path: Path, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_sha256(files: Iterable[Path]) -> str:
    """SHA-256 over names and syntax trees: comments, docstrings and layout do not change it."""
    return sha256([[f.name, syntax_tree(f.read_text(encoding="utf-8"))] for f in files])


def syntax_tree(text: str) -> str:
    """The syntax tree of Python source as JSON, without docstrings; the same in every version of Python."""
    return json.dumps(_canonical(ast.parse(text)))


def _canonical(node: object) -> object:
    """A nested list of fields by name. Empty fields are left out: new versions of Python add some."""
    if isinstance(node, list):
        return [_canonical(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if (
        isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and ast.get_docstring(node, clean=False) is not None
    ):
        fields["body"] = node.body[1:]
    kept = [(name, _canonical(value)) for name, value in sorted(fields.items()) if value not in (None, [])]
    return [type(node).__name__, kept]
