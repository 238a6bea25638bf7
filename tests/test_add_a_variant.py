"""README's "Add a variant", followed word for word in a copy of the repository, where its commands must then work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import adapters as ad

ROOT = Path(ad.__file__).parents[1]
# Beside -k mine: tests that read all variants at once.
READ_ALL = ("are_one_file_and_one_yaml", "names_no_variant", "files_are_short", "names_every_room", "stand_alone")
READ_ALL += ("published_table", "found_by_its_variants_name", "test_roles")
# A variant that has little in common with the others: not linear, no rank, no paper, other layers, its own field.
AWKWARD = {
    "adapters/mine_too.py": '''
"""y' = y + tanh(g)∘tanh(f·y),   g (o,)   Identity at t=0: g = 0."""

from dataclasses import dataclass

from torch import Tensor

from adapters._contract import Config, Shape, Variant, bounded


@dataclass(frozen=True, kw_only=True)
class MineTooConfig(Config):
    """f: how soon the change saturates."""

    targets: str = "mlp"
    f: float | None = bounded(0.5, above=0)


class MineToo(Variant):
    Config = MineTooConfig

    @classmethod
    def shapes(cls, cfg: MineTooConfig, o: int, i: int) -> dict[str, Shape]:
        return {"lora_g": (o,)}

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.lora_g.to(y.dtype).tanh() * (self.cfg.f * y).tanh()
'''.lstrip(),
    "conf/variant/mine_too.yaml": """
name: mine_too
defaults_by_benchmark: { tiny: { lr: 1.0e-2 }, gsm8k: { lr: 1.0e-2 } }
f: 0.5
targets: mlp
roles: null
layers: null
dtype: float32
""".lstrip(),
}


def readme() -> tuple[dict[str, str], list[str]]:
    """The section's files, path → text, and its commands."""
    sections = re.split(r"^## ", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    (section,) = [text for text in sections if text.startswith("Add a variant\n")]
    blocks = re.findall(r"`(\S+)`[^`]*```\w+\n(.*?)```", section, flags=re.DOTALL)
    commands = [line.split("#")[0].strip() for line in section.splitlines() if re.match(r"    (make|python) ", line)]
    return dict(blocks), commands


def output_of(words: list[str], folder: Path) -> str:
    """Standard output of a command that must succeed."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, f"{words}\n{result.stdout[-6000:]}\n{result.stderr[-2000:]}"
    return result.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What git tracks here, or would with `git add .`, under git again, with the two variants in it."""
    folder, added = tmp_path / "copy", readme()[0] | AWKWARD
    variants = {Path(name).stem for name in added}
    for name in output_of(["git", "ls-files", "--cached", "--others", "--exclude-standard"], ROOT).splitlines():
        if (ROOT / name).is_file() and Path(name).stem.removeprefix("_peft_") not in variants:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    for name, text in added.items():
        (folder / name).write_text(text)
    output_of(["git", "init", "--quiet"], folder)
    return folder


@pytest.mark.slow
def test_the_readmes_variant_needs_nothing_else(copy: Path, overrides: list[str]) -> None:
    """Its own tests, the tests that read every variant, the linter and a run succeed; skips say what is missing."""
    files, (test, train) = readme()
    assert list(files) == ["adapters/mine.py", "conf/variant/mine.yaml"]
    assert test == 'make test ARGS="-k mine"'
    make = ["make", "--no-print-directory", "--dry-run", "test", "ARGS=-k mine"]
    assert re.search(r"-m pytest .*-k mine$", output_of(make, copy).strip())

    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", "-vv"]
    out = output_of([*words, "-k", " or ".join(("mine", *READ_ALL))], copy)
    passed = re.findall(r"^(\S+) PASSED", out, flags=re.MULTILINE)
    for word in READ_ALL:
        assert any(word in name for name in passed), word
    for variant in ("mine]", "mine_too]"):
        assert len([name for name in passed if name.endswith(variant)]) > 20, variant
    skips = {reason: int(n) for n, reason in re.findall(r"^SKIPPED \[(\d+)\] (.*mine.*)", out, flags=re.MULTILINE)}
    for reason, times in (
        ("tests/oracles/mine.py may hold COUNT", 1),
        ("tests/oracles/mine_too.py may hold COUNT", 1),
        ("tests/oracles/mine.py may define dense(L)", 1),
        ("tests/oracles/mine_too.py may define dense(L)", 1),
        ("or KIND in adapters/_peft_mine_too.py", 3),  # on two models, and on layers of unequal sizes
    ):
        assert [skips.pop(line) for line in list(skips) if reason in line] == [times], reason
    assert skips == {}

    python = [name for name in files | AWKWARD if name.endswith(".py")]
    output_of([sys.executable, "-m", "ruff", "check", *python], copy)
    output_of([sys.executable, "-m", "ruff", "format", "--check", *python], copy)
    small = [word for word in overrides if not word.startswith("variant=")]
    out = output_of([sys.executable, *train.split()[1:], *small], copy)
    assert "__mine__" in out
    assert "parameters" in out
