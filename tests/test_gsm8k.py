"""The GSM8K scripts: memory measured right, parts that are resumed, checks that can fail, and reports that agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model

from harness.inputs.base_model import _from_pretrained, load_model
from harness.paths import ROOT
from tools.bench_memory import Arguments, compare, main, steps
from tools.gsm8k_gpu import Arguments, Part, _result, _run, main, parts, plan_names
from tools.gsm8k_report import gpu_parts, gpu_report, main
from tools.gsm8k_smoke import main, nothing_lost

KEYS = {"part", "key", "device", "seconds", "result"}


# -- memory ------------------------------------------------------------------------------------------------------------
def test_memory_follows_live_tensors(tmp_path: Path) -> None:
    """Both losses in fp32 with a vocabulary so large that logits dominate: what a chunk saves can be counted."""
    words = ["layers=1", "batch=2", "tokens=512", "vocabulary=65536", "dtype=float32", "device=cpu", "shares=1"]
    main([*words, "checkpointing=false", f"out={tmp_path / 'm.json'}"])
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


def test_a_wrong_loss_is_noticed(monkeypatch: Any, tmp_path: Path) -> None:
    """The comparison looks at values, not only at names."""
    from safetensors.torch import save_file

    args = Arguments(shares="1", checkpointing="false", dtype="float32", device="cpu")
    steps = steps(args, tmp_path)
    for wrong, tensors in ((False, [1.0, 2.0]), (True, [1.0, 2.01]), (True, [0.0, 0.0])):
        for step in steps:
            own = step.loss == "chunks"
            values = tensors if own or not any(tensors) else [1.0, 2.0]
            save_file({"loss": torch.tensor(3.0), "a": torch.tensor(values)}, step.gradients)
        (difference,) = compare(args, steps)
        assert difference["same"] is not wrong


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["variants=nope"], r"variants: unknown, got 'nope'; expected one of .*"),
        (["losses=mine"], r"losses: unknown, got 'mine'; expected one of model, chunks\."),
        (["shares=2"], r"shares: out of range, got '2'; expected numbers above 0 and up to 1\."),
        (["checkpointing=maybe"], r"checkpointing: unknown, got 'maybe'; expected one of false, true, both\."),
        (["dtype=int8"], r"dtype: unknown, got 'int8'; expected one of .*"),
    ],
)
def test_memory_refuses_what_cannot_be(words: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main(["device=cpu", *words])


# -- GGUF --------------------------------------------------------------------------------------------------------------
def test_a_gguf_base_is_unpacked_once_and_quantizes(tmp_path: Path, monkeypatch: Any, small_job: Any) -> None:
    """transformers quantizes nothing that comes from GGUF; a stand-in for its reader gives the dense model."""
    import dataclasses

    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "x.gguf").write_bytes(b"GGUF")
    real, asked = _from_pretrained, []

    def reader(kind: Any, spec: Any, options: Any) -> Any:
        asked.append(spec.gguf_file)
        return make_model(256) if spec.gguf_file else real(kind, spec, options)

    monkeypatch.setattr(models, "_from_pretrained", reader)
    job = small_job()
    spec = dataclasses.replace(job.model, id=str(tmp_path / "m"), gguf_file="x.gguf", revision=None)
    for quantization, kind in (("4bit", "Linear4bit"), ("none", "Linear"), ("8bit", "Linear8bitLt")):
        model = load_model(dataclasses.replace(job, model=spec, quantization=quantization))
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
        nothing_lost(smoke_record(), metrics, predictions)
        return
    with pytest.raises(SystemExit, match=message):
        nothing_lost(smoke_record() | changes, metrics, predictions)


def test_smoke_refuses_a_folder_without_the_files(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"gsm8k: no train\.jsonl there, got '.*'\. Fetch it from .*"):
        main(["variants=lora", f"gsm8k={tmp_path}"])


# -- the GPU script ----------------------------------------------------------------------------------------------------
@pytest.fixture
def gpu(monkeypatch: Any, tmp_path: Path) -> Any:
    """gpu(*words) runs the script with parts of its own; returns the names of those that ran."""
    ran: list[str] = []
    code = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('{\"n\": 1}')"

    def parts(args: Any, out: Path) -> Any:
        for name, command in (
            ("a", ["-c", code, str(tmp_path / "a")]),
            ("b", ["-c", "import time, signal; " + tail(args), str(tmp_path / "b")]),
            ("c", ["-c", code, str(tmp_path / "c")]),
        ):
            yield Part(name, command, tmp_path / name, "cpu", ("harness/loss.py",))

    def tail(args: Any) -> str:
        return "time.sleep(60)" if args.size == "slow" else code

    def start(*words: str) -> list[str]:
        ran.clear()
        main([f"out={tmp_path / 'out'}", *words])
        return ran

    real = _run
    monkeypatch.setattr(gsm8k_gpu, "_run", lambda c, s: ran.append(Path(c[-1]).name) or real(c, s))  # type: ignore[func-returns-value]
    monkeypatch.setattr(gsm8k_gpu, "parts", parts)
    start.ran = ran  # type: ignore[attr-defined]
    return start


def test_parts_are_done_once_and_again_when_they_change(gpu: Any, tmp_path: Path) -> None:
    assert gpu() == ["a", "b", "c"]
    kept = json.loads((tmp_path / "out" / "a.json").read_text())
    assert kept.keys() == KEYS
    assert (kept["device"], kept["result"]) == ("cpu", {"n": 1})
    assert gpu() == []
    (tmp_path / "out" / "b.json").unlink()
    assert gpu() == ["b"]
    stale = tmp_path / "out" / "c.json"
    stale.write_text(json.dumps(json.loads(stale.read_text()) | {"key": "of other code"}))
    assert gpu() == ["c"]


def test_time_ends_between_or_within_parts(gpu: Any, monkeypatch: Any, tmp_path: Path) -> None:
    """A part that is under way is stopped and leaves no JSON; those before it are kept."""
    ticks = iter([0.0, 0.0, 0.0, 1.0, 59.9])
    monkeypatch.setattr(gsm8k_gpu.time, "monotonic", lambda: next(ticks, 1000.0))
    with pytest.raises(SystemExit, match=r"the time is over at 2/3 b; the same command goes on from here"):
        gpu("minutes=1", "size=slow")
    assert gpu.ran == ["a", "b"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.json"]
    monkeypatch.undo()


def test_a_failing_part_ends_it(gpu: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(gsm8k_gpu, "_run", lambda command, seconds: 3)
    with pytest.raises(SystemExit, match=r"1/3 a failed with code 3"):
        gpu()


def test_reduced_parts_are_those_of_the_full_plan(tmp_path: Path) -> None:
    """Every part composes to a job or names a module that is there; full size is refused without CUDA."""
    args = Arguments(size="reduced", device="cpu", runs_dir=str(tmp_path))
    made = list(parts(args, tmp_path))
    assert [p.name for p in made] == plan_names()
    assert len({p.result for p in made}) == len(made)
    assert all((ROOT / source).is_file() for p in made for source in p.sources)
    assert [p.command[0] for p in made] == ["-m"] * 3 + ["train.py"] * 10
    with pytest.raises(SystemExit, match=r"device: this wants a CUDA device, got 'cpu'; expected cuda\..*"):
        list(parts(Arguments(device="cpu"), tmp_path))
    with pytest.raises(SystemExit, match=r"size: unknown, got 'big'; expected one of full, reduced\."):
        list(parts(Arguments(size="big"), tmp_path))


def test_tests_are_counted(tmp_path: Path) -> None:
    """From pytest's own JUnit file."""
    file, junit = tmp_path / "test_two.py", tmp_path / "t.xml"
    file.write_text("import pytest\ndef test_a(): pass\n@pytest.mark.skip\ndef test_b(): pass\n")
    words = ["-m", "pytest", "-q", "-c", "/dev/null", str(file), f"--junit-xml={junit}"]
    assert _run(words, None) == 0
    made = _result(Part("tests", words, junit, "cpu"), 1.0)
    counts = {k: made["result"][k] for k in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": 2, "failures": 0, "errors": 0, "skipped": 1}
    assert made.keys() == KEYS


# -- reports -----------------------------------------------------------------------------------------------------------
def test_reports_are_what_the_files_give() -> None:
    """Like `make table-check`: whoever changes a JSON or the writer rebuilds the texts."""
    main(["check=true"])


def test_what_no_cuda_device_measured_is_unmeasured(tmp_path: Path) -> None:
    """A part measured on a CPU counts for nothing; one measured on CUDA replaces its line alone."""
    part = {"key": "k", "seconds": 61.0, "result": {"tests": 5, "failures": 0, "errors": 0, "skipped": 1}}
    part["result"] |= {"provenance": {"device": "Some GPU"}}  # type: ignore[operator]
    (tmp_path / "tests.json").write_text(json.dumps(part | {"part": "tests", "device": "cpu"}))
    text = gpu_report(gpu_parts(tmp_path))
    assert text.count("**unmeasured**") == len(plan_names())
    assert "Some GPU" not in text
    (tmp_path / "tests.json").write_text(json.dumps(part | {"part": "tests", "device": "cuda"}))
    text = gpu_report(gpu_parts(tmp_path))
    assert "| tests | Some GPU | 61 | 4 passed, 1 skipped |" in text
    assert text.count("**unmeasured**") == len(plan_names()) - 1


def test_the_loss_takes_at_most_six_tenths_of_the_memory() -> None:
    """The measured ratios that docs/gsm8k.md shows, without gradient checkpointing; loss and gradients agreed."""
    found = json.loads((ROOT / "reports" / "memory.json").read_text())
    shape = {k: found["arguments"][k] for k in ("layers", "batch", "tokens", "vocabulary", "dtype")}
    assert shape == {"layers": 28, "batch": 4, "tokens": 768, "vocabulary": 151936, "dtype": "bfloat16"}
    plain = [r["peak"] for r in found["ratios"] if not r["checkpointing"]]
    assert plain
    assert max(plain) <= 0.6
    assert all(d["same"] for d in found["differences"])
