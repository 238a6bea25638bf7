"""What holds for every tool, and what tiny_breakdown and tiny_blurting print."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.data.load import split_questions
from harness.data.tokenize import prompt_ids
from harness.inputs.base_model import loaded
from harness.paths import PUBLISHED, ROOT
from harness.records.store import read_records
from harness.run import run
from harness.tiny.problems import test_problems as problems_of_the_test
from tools import drill, tiny_blurting, tiny_breakdown
from tools._shared import job_of, variants

TOOLS = sorted(p.stem for p in (ROOT / "tools").glob("*.py") if not p.stem.startswith("_"))


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_explains_itself_and_refuses_unknown_words(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--help says how to call it and names each argument, and does nothing else; any other word is `key=value`."""
    tool = importlib.import_module(f"tools.{name}")
    with pytest.raises(SystemExit) as stopped:
        tool.main(["--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert f"python -m tools.{name}" in text
    for field in tool.Arguments.__dataclass_fields__.values():
        assert f"{field.name}=" in text, field.name
    for word in ("nope=1", "--check", "runs/published"):
        with pytest.raises(SystemExit, match=r"unknown argument, got '.*'; expected one of \w+="):
            tool.main([word])


def test_variants_are_chosen_by_name() -> None:
    frozen = variants(["all"])
    assert "lora" in frozen
    assert set(variants(["all"], trains_base=True)) - set(frozen) == {"full"}
    assert variants(["dora", "none"]) == ["dora", "none"]
    for name in ("full", "", "all"):
        with pytest.raises(SystemExit, match=rf"variants: unknown, got '{name}'; expected one of antipasto, .*"):
            variants(["lora", name])


def test_every_drill_selects_a_test_module() -> None:
    assert all((ROOT / "tests" / module).is_file() for module, *_ in drill.DRILLS.values())
    assert [name for name in drill.DRILLS if name not in (drill.__doc__ or "")] == []


def test_families_of_a_run_add_up_to_its_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    """The published records, one column for each variant with its own settings, at its chosen learning rate."""
    problems = problems_of_the_test()
    records = [r for r in read_records([PUBLISHED]).records if r["status"] == "done"]
    for r in records:
        shares = tiny_breakdown.by_family(r["test"]["correct_bits"], r["test"]["total"])
        right = sum(shares[p.family.name] for p in problems[: r["test"]["total"]])
        assert right == pytest.approx(r["test"]["correct"])
    tiny_breakdown.main([])
    head, rank, *families = (line.split() for line in capsys.readouterr().out.splitlines())
    first = next(r["science"]["model"] for r in records if r["run_id"] == "tiny-tiny__none__none")
    there = {r["variant"] for r in records if r["science"]["model"] == first}
    assert len({r["science"]["model"] for r in records}) > 1  # a second base has a table of its own
    assert len({r["rank"] for r in records if (r["variant"], r["science"]["model"]) == ("lora", first)}) > 1
    assert len(head) - 1 == len(there)  # nor have other ranks
    assert {len(line) for line in families} == {len(head)}
    assert {line[0] for line in families} == {p.family.name for p in problems}
    assert rank[0] == "rank"


def test_breakdown_refuses_a_folder_without_runs(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"runs_dir: no finished runs on this benchmark and base, got '.*'\. Run .*"):
        tiny_breakdown.main([f"runs_dir={tmp_path}"])


@pytest.mark.slow
def test_blurting_of_a_base_and_of_its_own_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"runs_dir={tmp_path}", f"cache_dir={tmp_path / 'cache'}", "threads=1", "steps=1", "eval.limit=2"]
    job = job_of(["benchmark=tiny", "variant=ia3", *words])
    run(job)
    capsys.readouterr()
    tiny_blurting.main([f"runs_dir={tmp_path}", "questions=2"])
    base, adapted = (line.split("  ") for line in capsys.readouterr().out.splitlines())
    assert base[1] == "without an adapter"
    assert adapted[1].startswith("tiny-tiny__ia3")

    tokenizer, model = loaded(job)
    prompts = prompt_ids(job.prompt, [q.text for q in split_questions(job, "valid")], tokenizer)
    hashes = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(" #### 1")[0])
    with torch.no_grad():
        each = [model(torch.tensor([p])).logits[0, -1].double().exp() for p in prompts]
    assert float(base[0]) == pytest.approx(sum(float(e[hashes] / e.sum()) for e in each) / len(each), abs=6e-4)

    other = shutil.copytree(ROOT / "models" / "tiny", tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1.1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    tiny_blurting.main([f"model={other}", f"runs_dir={tmp_path}", "questions=2"])
    assert len(capsys.readouterr().out.splitlines()) == 1
