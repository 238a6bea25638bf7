"""Rules about the files themselves: config tree, layers, names, sizes, README's tree, and the installed package."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

import adapters as ad
from harness.config.compose import compositions
from harness.config.validate import job_from
from harness.paths import CONF, ROOT

GROUPS = {"benchmark", "model", "data", "variant", "quantization", "tracking", "experiment", "hydra/launcher"}
BENCHMARKS = sorted(p.stem for p in (CONF / "benchmark").glob("*.yaml"))
OPTIONS = sorted(p.relative_to(CONF) for p in CONF.rglob("*.yaml") if p.parent != CONF)


def tracked() -> list[str]:
    """Files that git tracks, or would with `git add .`."""
    words = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    return [f for f in listed if (ROOT / f).exists()]


def python_files(*folders: str) -> list[Path]:
    return [ROOT / f for f in tracked() if f.endswith(".py") and f.startswith(folders)]


# -- conf/ ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_yaml_composes_and_resolves(option: Path, cache_dir: Path) -> None:
    """Whatever file there is: a group's option, named as its file, that gives a valid job with each benchmark."""
    group = str(option.parent)
    assert group in GROUPS
    for benchmark in [option.stem] if group == "benchmark" else BENCHMARKS:
        words = [f"benchmark={benchmark}", f"{group}={option.stem}"]
        words += ["variant=none"] * (group == "quantization")
        words += ["model.id=models/tiny"] * (option == Path("model/hub.yaml"))
        if option == Path("data/files.yaml"):
            words += [f"data.{split}.path=x" for split in ("train", "questions", "test")]
        words = [*dict.fromkeys(words), f"cache_dir={cache_dir}"]
        for cfg in compositions(words, multirun=group == "experiment"):
            OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
            assert job_from(cfg).benchmark == benchmark
    if group not in ("data", "experiment", "hydra/launcher"):  # whose schema has no name
        assert yaml.safe_load((CONF / option).read_text())["name"] == option.stem


def test_variants_are_one_file_and_one_yaml() -> None:
    files = {p.stem for p in (ROOT / "adapters").glob("*.py") if not p.stem.startswith("_")}
    assert files == ad.VARIANTS.keys() == {p.stem for p in (CONF / "variant").glob("*.yaml")}


@pytest.mark.parametrize("variant", sorted(ad.VARIANTS))
def test_a_variants_yaml_lists_its_fields_and_no_others(variant: str) -> None:
    """Also those of its defaults by benchmark, which must name every benchmark where anything is trained."""
    given = yaml.safe_load((CONF / "variant" / f"{variant}.yaml").read_text())
    fields = {f.name for f in dataclasses.fields(ad.VARIANTS[variant].Config)}
    by_benchmark = given.pop("defaults_by_benchmark", None)
    assert set(given) == fields | {"name"}
    if by_benchmark is not None:
        assert sorted(by_benchmark) == BENCHMARKS
        assert all(set(d) <= fields | {"lr"} and "lr" in d for d in by_benchmark.values())


# -- layers -----------------------------------------------------------------------------------------------------------
def docstrings(tree: ast.AST) -> set[int]:
    """Ids of the constants that are docstrings."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            first = node.body[0]
            assert isinstance(first, ast.Expr)
            found.add(id(first.value))
    return found


def test_the_harness_names_no_variant() -> None:
    """It asks capabilities, never identity: a variant's name is no string constant there, nor a word of one.

    Exempt are words that mean something else: `none` (a quantization) and `full` (a message may say "full").
    """
    names = set(ad.VARIANTS) - {"none", "full"}
    named = []
    for path in [*python_files("harness/"), ROOT / "train.py", ROOT / "eval_gsm8k.py", ROOT / "cost_report.py"]:
        tree = ast.parse(path.read_text())
        skip = docstrings(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skip:
                words = set(re.findall(r"\w+", node.value))
                named += [f"{path.relative_to(ROOT)}:{node.lineno}: {w}" for w in words & names]
    assert named == []


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add((node.module or "").split(".")[0])
    return found


def test_adapters_stand_alone() -> None:
    """Only torch and what comes with it; bitsandbytes is a model's own, and is looked at, not loaded."""
    allowed = set(sys.stdlib_module_names) | {"adapters", "torch", "jaxtyping", "safetensors", "bitsandbytes"}
    for path in python_files("adapters/"):
        assert imports(path) <= allowed, path
    for path in python_files("harness/"):
        assert not imports(path) & {"train", "eval_gsm8k", "cost_report", "tests"}, path


def test_the_package_is_this_repositorys() -> None:
    assert Path(ad.__file__).is_relative_to(ROOT)


# -- sizes ------------------------------------------------------------------------------------------------------------
def test_files_are_short() -> None:
    """Variants ≤ 150 lines, modules ≤ 300, entry points ≤ 200, functions ≤ 60."""
    long = []
    for path in [ROOT / f for f in tracked() if f.endswith(".py") and not f.startswith("tests/")]:
        where = path.relative_to(ROOT)
        text = path.read_text()
        limit = 200 if path.parent == ROOT else 300
        if path.parent.name == "adapters" and not path.name.startswith("_"):
            limit = 150
        if (lines := len(text.splitlines())) > limit:
            long.append(f"{where}: {lines} lines, not {limit}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                size = (node.end_lineno or 0) - node.lineno + 1
                if size > 60:
                    long.append(f"{where}:{node.lineno}: {node.name} has {size} lines, not 60")
    assert long == []


# -- README -----------------------------------------------------------------------------------------------------------
def tree_of_readme() -> dict[str, str]:
    """path → role, from the indented block under the heading "Files": lines of `path/to/file   role`."""
    sections = re.split(r"^##+ ", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    (section,) = [text for text in sections if text.startswith("Files\n")]
    lines = [line.split(maxsplit=1) for line in section.splitlines() if line.startswith("    ")]
    assert lines
    assert all(len(line) == 2 for line in lines), [line for line in lines if len(line) != 2]
    return dict(lines)


def test_readme_names_every_room_and_nothing_that_is_not_there() -> None:
    listed = tree_of_readme()
    files = tracked()
    folders = {f"{parent}/" for f in files for parent in Path(f).parents if str(parent) != "."}
    for path in listed:
        if "<" in path:  # a pattern such as adapters/<variant>.py
            pattern = re.compile(re.sub(r"<[^>]*>", "[^/]+", path.rstrip("/")) + ("/" if path.endswith("/") else ""))
            assert any(pattern.fullmatch(f) for f in [*files, *folders]), path
        elif "*" in path:
            assert list(ROOT.glob(path)), path
        else:
            assert path in files or f"{path.rstrip('/')}/" in folders, path
    rooms = {f.split("/")[0] for f in files}
    named = {path.split("/")[0] for path in listed}
    assert rooms - named == set()


# -- the package ------------------------------------------------------------------------------------------------------
def test_the_wheel_holds_adapters_alone_and_imports_elsewhere(tmp_path: Path) -> None:
    """`pip wheel .` of a copy, then `import adapters` from the wheel in another folder."""
    source = tmp_path / "source"
    for name in ["pyproject.toml", "README.md", *(f for f in tracked() if f.startswith("adapters/"))]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run([*words, "-w", str(tmp_path), str(source)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert not wheel.name.startswith("adapters-")  # that name is another project's on the package index
    with zipfile.ZipFile(wheel) as archive:
        tops = {n.split("/")[0] for n in archive.namelist()}
        assert "adapters/py.typed" in archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert {t for t in tops if not t.endswith(".dist-info")} == {"adapters"}
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path / "installed")!r})
import adapters as ad, torch
assert ad.__file__.startswith({str(tmp_path)!r}), ad.__file__
model = torch.nn.ModuleDict({{"q_proj": torch.nn.Linear(8, 8)}})
with ad.attach(model, ad.LoRAConfig(r=2, alpha=4)):
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 32
assert len(ad.VARIANTS) == {len(ad.VARIANTS)}
assert "harness" not in sys.modules and "transformers" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


PATH = re.compile(
    r"(?<![\w./<-])(?:adapters|conf|docs|harness|models|reports|tests|tools)/[\w./-]*\w\.(?:py|md|yaml|json|toml|csv|html)\b"
)


@pytest.mark.parametrize("page", [f for f in tracked() if f.endswith(".md") and f != "CHANGELOG.md"])
def test_pages_name_files_that_are_there(page: str) -> None:
    """But for those of README's new variant."""
    paths = {path for path in PATH.findall((ROOT / page).read_text()) if Path(path).stem not in ("mine", "_peft_mine")}
    assert {path for path in paths if not (ROOT / path).exists()} == set()
