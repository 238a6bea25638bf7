"""The GSM8K tools: peak memory, checks that can fail, parts within a time limit, reports that match the JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model

from harness.inputs import base_model
from harness.paths import ROOT
from harness.report.markdown import fill_block
from tools import bench_memory, gsm8k_gpu, gsm8k_report, gsm8k_smoke


# -- memory ------------------------------------------------------------------------------------------------------------
def test_memory_follows_live_tensors(tmp_path: Path) -> None:
    """Both losses in fp32 with a vocabulary so large that logits dominate: what a chunk saves can be counted."""
    words = ["layers=1", "batch=2", "tokens=512", "vocabulary=65536", "dtype=float32", "device=cpu", "shares=1"]
    bench_memory.main([*words, "checkpointing=false", f"out={tmp_path / 'm.json'}"])
    found = json.loads((tmp_path / "m.json").read_text())
    rows = {r["loss"]: r for r in found["rows"]}
    logits = 2 * 512 * 65536 * 4  # bytes, once
    assert 2.5 * logits < rows["model"]["step_bytes"] < 6 * logits
    assert rows["chunks"]["step_bytes"] < 0.8 * rows["model"]["step_bytes"]  # two chunks of 512 labels
    (ratio,) = found["ratios"]
    assert ratio["peak"] == rows["chunks"]["peak_bytes"] / rows["model"]["peak_bytes"]
    weights = 65536 * 1024 + 1024 * (2048 + 1024 + 1024 + 2048 + 3 * 3072)  # tied embedding; q k v o, gate up down
    assert 4 * weights < rows["model"]["model_bytes"] < 4 * weights * 1.02
    (difference,) = found["differences"]
    assert difference["same"]


@pytest.mark.parametrize(
    ("own", "other", "same"),
    [
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.0]}, True),
        ({"a": [1.0, 2.01]}, {"a": [1.0, 2.0]}, False),
        ({"a": [0.0, 0.0]}, {"a": [0.0, 0.0]}, False),  # nothing was compared
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.0], "b": [1.0]}, False),
        ({"a": [1.0], "b": [1.0]}, {"a": [1.0]}, False),
        ({"loss": 3.001, "a": [1.0]}, {"a": [1.0]}, False),
        ({}, {}, True),  # `none` has no gradients
    ],
)
def test_a_wrong_loss_is_noticed(tmp_path: Path, own: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    """The comparison looks at values, not only at names; PEFT's rows and those of one loss alone are not compared."""
    from safetensors.torch import save_file

    args = bench_memory.Arguments(variants=["lora"], shares=[1.0], checkpointing=[False], peft=True, device="cpu")
    rows = []
    for step in bench_memory.steps(args, tmp_path):
        tensors = {"loss": 3.0} | (own if step.loss == "chunks" else other)
        save_file({n: torch.tensor(v) for n, v in tensors.items()}, step.gradients)
        sizes = {"peak_bytes": 10 if step.loss == "model" else 4, "step_bytes": 8 if step.loss == "model" else 2}
        rows.append(dataclasses.asdict(step) | sizes)
    assert [r["peft"] for r in rows] == [False, False, True]
    (ratio,), (difference,) = bench_memory.compare(rows, "float32")
    assert difference["same"] is same
    assert (ratio["peak"], ratio["above_model"]) == (0.4, 0.25)
    assert bench_memory.compare(rows[1:], "float32") == ([], [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["variants=nope"], r"variants: unknown, got 'nope'; expected one of .*"),
        (["losses=mine"], r"losses: unknown, got 'mine'; expected one of model, chunks\."),
        (["shares=0.5,2"], r"shares: out of range, got 2\.0; expected a finite number > 0 and <= 1\."),
        (["shares=0"], r"shares: out of range, got 0\.0; expected a finite number > 0 and <= 1\."),
        (["checkpointing=maybe"], r"checkpointing: wrong type, got 'maybe'; expected true, false or true,false\. .*"),
        (["dtype=int8"], r"dtype: unknown, got 'int8'; expected one of .*"),
    ],
)
def test_memory_refuses_bad_input(words: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        bench_memory.main(["device=cpu", *words])


# -- GGUF --------------------------------------------------------------------------------------------------------------
def test_a_gguf_base_is_unpacked_once_and_quantizes(tmp_path: Path, monkeypatch: Any, small_job: Any) -> None:
    """transformers quantizes nothing that comes from GGUF; a stand-in for its reader gives the dense model."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "x.gguf").write_bytes(b"GGUF")
    real, asked = base_model._from_pretrained, []

    def reader(kind: Any, spec: Any, options: Any) -> Any:
        asked.append(spec.gguf_file)
        return make_model(256) if spec.gguf_file else real(kind, spec, options)

    monkeypatch.setattr(base_model, "_from_pretrained", reader)
    job = small_job()
    spec = dataclasses.replace(job.model, id=str(tmp_path / "m"), gguf_file="x.gguf", revision=None)
    for quantization, kind in (("4bit", "Linear4bit"), ("none", "Linear"), ("8bit", "Linear8bitLt")):
        model = base_model.load_model(dataclasses.replace(job, model=spec, quantization=quantization))
        assert type(model.model.layers[0].self_attn.q_proj).__name__ == kind
        assert torch.equal(model.model.embed_tokens.weight, make_model(256).model.embed_tokens.weight)
    assert asked == ["x.gguf", None, None, None]


# -- the smoke run -----------------------------------------------------------------------------------------------------
def smoke_record() -> dict[str, Any]:
    health = {"moved": True, "no_base_gradient": True, "base_unchanged": True}
    record = {"variant": "v", "steps": 3, "health": health, "train": {"loss_first": 2.0, "loss_last": 1.0}}
    return record | {"test": {"total": 2}, "valid": {"total": 1}}


STEPS = [1, 2, 3]
ANSWERS = [("valid", 0), ("test", 1), ("test", 0)]


@pytest.mark.parametrize(
    ("steps", "answers", "changes", "message"),
    [
        (STEPS, ANSWERS, {}, None),
        ([1, 2, 2, 3], ANSWERS, {}, "steps in metrics"),
        ([1, 3], ANSWERS, {}, "steps in metrics"),
        (STEPS, [*ANSWERS, ("test", 0)], {}, "questions answered"),
        (STEPS, ANSWERS[:2], {}, "questions answered"),
        (STEPS, ANSWERS, {"train": {"loss_first": 1.0, "loss_last": 1.0}}, "did not fall"),
        (STEPS, ANSWERS, {"health": {"moved": None, "no_base_gradient": True, "base_unchanged": True}}, "moved"),
    ],
)
def test_smoke_notices_what_is_lost(
    tmp_path: Path, steps: list[int], answers: list[Any], changes: dict[str, Any], message: str | None
) -> None:
    metrics, predictions = tmp_path / "metrics.jsonl", tmp_path / "predictions.jsonl"
    metrics.write_text("".join(json.dumps({"step": s}) + "\n" for s in steps))
    predictions.write_text("".join(json.dumps({"split": s, "index": n}) + "\n" for s, n in answers))
    if message is None:
        gsm8k_smoke.nothing_lost(smoke_record(), metrics, predictions)
        return
    with pytest.raises(SystemExit, match=message):
        gsm8k_smoke.nothing_lost(smoke_record() | changes, metrics, predictions)


def test_smoke_refuses_a_folder_without_the_files(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"gsm8k: no train\.jsonl in this folder, got '.*'\. Fetch it from .*"):
        gsm8k_smoke.main(["variants=lora", f"gsm8k={tmp_path}"])


# -- make gsm8k-gpu ----------------------------------------------------------------------------------------------------
def make(folder: Path, *words: str) -> tuple[int, list[str]]:
    """Exit code of make with a `python` that only logs its words, and the parts that it was asked for.

    It knows the parts a, b and c; b fails while a file `fail` is in the folder.
    """
    log = folder / "log"
    log.write_text("")
    (folder / "bin").mkdir(exist_ok=True)
    python = folder / "bin" / "python"
    python.write_text(
        f"""#!/bin/sh
echo "$@" >> {log}
case "$*" in
    *part=b*) [ ! -e {folder}/fail ] ;;
    *part=*) ;;
    *tools.gsm8k_gpu*) echo a b c ;;
esac
"""
    )
    python.chmod(0o755)
    (folder / "ready").touch()
    own = [f"BIN={python.parent}", f"READY={folder / 'ready'}", f"GPU_STAMPS={folder / 'stamps'}", "GSM8K=data"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    done = subprocess.run(["make", *own, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 2), done.stderr
    return done.returncode, re.findall(r"-m tools\.gsm8k_gpu (.*part=.*)", log.read_text())


def test_make_continues_where_it_stopped(tmp_path: Path) -> None:
    """Parts run in order, each once; a failing part ends it, and a changed source runs a part again."""
    names = [f"size=full part={name} until= gsm8k=data" for name in "abc"]
    (tmp_path / "fail").touch()
    assert make(tmp_path, "gsm8k-gpu") == (2, names[:2])
    (tmp_path / "fail").unlink()
    assert make(tmp_path, "gsm8k-gpu") == (0, names[1:])
    assert make(tmp_path, "gsm8k-gpu") == (0, [])
    stamps = [str(tmp_path / "stamps" / name) for name in "abc"]
    assert make(tmp_path, "-W", "adapters/_hooks.py", *stamps) == (0, names)  # as if it had just been edited
    assert make(tmp_path, "-W", "README.md", *stamps) == (0, [])
    os.utime(stamps[2], (0, 0))
    assert make(tmp_path, "gsm8k-gpu") == (0, names[2:])


def test_make_gives_each_part_the_same_end(tmp_path: Path) -> None:
    before = time.time()
    code, parts = make(tmp_path, "gsm8k-gpu", "MINUTES=9", "SIZE=reduced")
    ends = {int(n) for n in re.findall(r"until=(\d+)", " ".join(parts))}
    assert (code, len(parts), len(ends)) == (0, 3, 1)
    assert int(before) + 540 <= ends.pop() <= time.time() + 540
    assert all(part.startswith("size=reduced part=") for part in parts)


def test_sources_of_the_parts(tmp_path: Path) -> None:
    """An edit of a part's own source runs that part again, and no other."""
    stamps = [str(tmp_path / "stamps" / name) for name in gsm8k_gpu.part_names()]
    make(tmp_path, *stamps)
    for source, part in (
        ("tests/test_gpu.py", "tests"),
        ("tools/bench_speed.py", "bench"),
        ("harness/loss.py", "memory"),
    ):
        code, parts = make(tmp_path, "-W", source, *stamps)
        assert (code, [re.findall(r"part=(\S+)", p)[0] for p in parts]) == (0, [part])


CODE = "import json, sys; json.dump({'n': 1, 'seconds': 7.0}, open(sys.argv[-1].split('=')[1], 'w'))"
SLOW = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path(sys.argv[1], "checkpoint").touch(), sys.exit(130)))
pathlib.Path(sys.argv[1], "ready").touch()
time.sleep(60)
"""


@pytest.fixture
def plan(monkeypatch: Any, tmp_path: Path) -> Any:
    """plan(command): one whose part `bench` is this command."""

    def write(*command: str) -> None:
        size = {"out": str(tmp_path / "out"), "bench": list(command), "common": [], "tests": [], "memory": []}
        (tmp_path / "plan.yaml").write_text(json.dumps({"sizes": {"reduced": size, "full": size}, "runs": {}}))
        monkeypatch.setattr(gsm8k_gpu, "PLAN", tmp_path / "plan.yaml")

    return write


PART = ["part=bench", "size=reduced", "device=cpu"]


def test_a_finished_part_leaves_its_json(plan: Any, tmp_path: Path) -> None:
    plan("-c", CODE)
    gsm8k_gpu.main(PART)
    part = json.loads((tmp_path / "out" / "bench.json").read_text())
    expected = {"part": "bench", "device": "cpu", "seconds": 7.0}  # a resumed run's record knows all its sessions
    assert part == expected | {"result": {"n": 1, "seconds": 7.0}}


def test_a_part_ends_with_the_time(plan: Any, monkeypatch: Any, tmp_path: Path) -> None:
    """By SIGTERM, which lets a training run save a checkpoint; nothing is started once the time is over."""
    limits = []

    class Popen(subprocess.Popen):  # type: ignore[type-arg]
        def wait(self, timeout: float | None = None) -> int:
            """The time is over as soon as the command can be stopped."""
            limits.append(timeout)
            if len(limits) > 1:
                return super().wait(timeout)
            while not (tmp_path / "ready").exists():
                time.sleep(0.01)
            raise subprocess.TimeoutExpired(self.args, 0)

    monkeypatch.setattr(gsm8k_gpu.subprocess, "Popen", Popen)
    plan("-c", SLOW, str(tmp_path))
    for left, saved in ((-1, False), (1000, True)):
        with pytest.raises(
            SystemExit, match=r"bench: out of time\. Run the same command again to continue from here\."
        ):
            gsm8k_gpu.main([*PART, f"until={time.time() + left:.0f}"])
        assert (tmp_path / "checkpoint").exists() is saved
    assert 990 < limits[0] <= 1001
    assert not (tmp_path / "out").exists()


def test_a_failing_part_leaves_no_json(plan: Any, tmp_path: Path) -> None:
    plan("-c", "raise SystemExit(3)")
    with pytest.raises(SystemExit, match=r"bench: failed with exit code 3; its message is above\."):
        gsm8k_gpu.main(PART)
    assert not (tmp_path / "out").exists()


def test_reduced_parts_are_those_of_the_full_plan(tmp_path: Path, capsys: Any) -> None:
    """Every part composes to a job or names a module that exists; full size is refused without CUDA."""
    plan = gsm8k_gpu.read_plan()
    gsm8k_gpu.main(["size=reduced", "device=cpu"])
    names = capsys.readouterr().out.split()
    assert names == gsm8k_gpu.part_names() == ["tests", "bench", "memory", *plan["runs"]]
    assert plan["sizes"]["full"].keys() == plan["sizes"]["reduced"].keys()
    files = set()
    for name in names:
        args = gsm8k_gpu.Arguments(part=name, size="reduced", device="cpu")
        command, file = gsm8k_gpu.command_of(args, plan, "cpu", tmp_path)
        files.add((name, file) if file.parent == tmp_path else file)
        assert command[0] == ("train.py" if name in plan["runs"] else "-m")
    assert len(files) == len(names)
    assert (ROOT / plan["sizes"]["full"]["tests"][-1]).is_file()
    with pytest.raises(
        SystemExit, match=r"device: size=full requires a CUDA device, got 'cpu'; expected cuda\. SIZE=.*"
    ):
        gsm8k_gpu.main(["device=cpu"])
    with pytest.raises(SystemExit, match=r"size: unknown, got 'big'; expected one of full, reduced\."):
        gsm8k_gpu.main(["size=big"])
    with pytest.raises(SystemExit, match=r"part: unknown, got 'x'; expected one of tests, bench, memory, run-none, .*"):
        gsm8k_gpu.main(["size=reduced", "device=cpu", "part=x"])


def test_tests_are_counted(tmp_path: Path) -> None:
    """From pytest's own JUnit file."""
    file, junit = tmp_path / "test_two.py", tmp_path / "t.xml"
    file.write_text("import pytest\ndef test_a(): pass\n@pytest.mark.skip\ndef test_b(): pass\n")
    words = ["-m", "pytest", "-q", "-c", "/dev/null", str(file), f"--junit-xml={junit}"]
    assert gsm8k_gpu.run_within(words, None) == 0
    result = gsm8k_gpu.result_of(junit, "cpu")
    counts = {k: result[k] for k in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": 2, "failures": 0, "errors": 0, "skipped": 1}
    assert result.keys() == {*counts, "provenance"}


# -- reports -----------------------------------------------------------------------------------------------------------
def test_reports_match_the_json_files() -> None:
    """Like `make docs-check`: whoever changes a JSON or the writer rebuilds the texts."""
    gsm8k_report.main(["check=true"])


def test_only_cuda_measurements_are_reported(tmp_path: Path) -> None:
    """A part measured on a CPU does not count; one measured on CUDA has a row and leaves the line of the others."""
    names = gsm8k_gpu.part_names()
    part = {"seconds": 61.0, "result": {"tests": 5, "failures": 0, "errors": 0, "skipped": 1}}
    part["result"] |= {"provenance": {"device": "Some GPU"}}  # type: ignore[operator]
    (tmp_path / "tests.json").write_text(json.dumps(part | {"part": "tests", "device": "cpu"}))
    text = gsm8k_report.gpu_report(gsm8k_report.gpu_parts(tmp_path))
    assert f"Not measured: {', '.join(names)}.\n" in text
    assert "Some GPU" not in text
    assert "|" not in text
    (tmp_path / "tests.json").write_text(json.dumps(part | {"part": "tests", "device": "cuda"}))
    diverged = {"status": "diverged", "provenance": {"device": "Some GPU"}}
    run = {"part": "run-ia3", "device": "cuda:0", "seconds": 1000.0, "result": diverged}
    (tmp_path / "run-ia3.json").write_text(json.dumps(run))
    text = gsm8k_report.gpu_report(gsm8k_report.gpu_parts(tmp_path))
    assert "| tests | Some GPU | 61 | 4 passed, 1 skipped |" in text
    assert "| run-ia3 | Some GPU | 1,000 | diverged |" in text
    assert f"Not measured: {', '.join(n for n in names if n not in ('tests', 'run-ia3'))}.\n" in text


def test_a_block_is_filled_between_its_marks_alone() -> None:
    """And a page without exactly one pair of marks, in their order, is refused by name."""
    begin, end = "<!-- costs:begin (x writes this) -->\n", "<!-- costs:end -->"
    page = f"a\n{begin}old\n<!-- other:begin -->\n{end}\nb <!-- costs: -->\n"
    assert fill_block(page, "costs", r"new \1", "p.md") == f"a\n{begin}new \\1\n{end}\nb <!-- costs: -->\n"
    assert fill_block(fill_block(page, "costs", "x", "p.md"), "costs", "x", "p.md") == fill_block(
        page, "costs", "x", ""
    )
    for broken in ("", begin, end, f"{end}\n{begin}", f"{begin}{begin}{end}", f"{begin}{end}{end}", page + page):
        with pytest.raises(SystemExit, match=r"p\.md: no single block costs; expected <!-- costs:begin … --> and .*"):
            fill_block(broken, "costs", "x", "p.md")


def test_the_loss_takes_at_most_six_tenths_of_the_memory() -> None:
    """The measured ratios that docs/gsm8k.md shows, without gradient checkpointing; loss and gradients agreed."""
    found = json.loads((ROOT / "reports" / "memory.json").read_text())
    shape = {k: found["arguments"][k] for k in ("layers", "batch", "tokens", "vocabulary", "dtype")}
    assert shape == {"layers": 28, "batch": 4, "tokens": 768, "vocabulary": 151936, "dtype": "bfloat16"}
    plain = [r["peak"] for r in found["ratios"] if not r["checkpointing"]]
    assert plain
    assert max(plain) <= 0.6
    assert all(d["same"] for d in found["differences"])
