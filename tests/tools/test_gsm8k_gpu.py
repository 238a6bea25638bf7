"""The GPU script: parts are done once, again when they change, and end with the time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.paths import ROOT
from tools import gsm8k_gpu

KEYS = {"part", "key", "device", "seconds", "result"}


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
            yield gsm8k_gpu.Part(name, command, tmp_path / name, "cpu", ("harness/loss.py",))

    def tail(args: Any) -> str:
        return "time.sleep(60)" if args.size == "slow" else code

    def start(*words: str) -> list[str]:
        ran.clear()
        gsm8k_gpu.main([f"out={tmp_path / 'out'}", *words])
        return ran

    real = gsm8k_gpu._run
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
    args = gsm8k_gpu.Arguments(size="reduced", device="cpu", runs_dir=str(tmp_path))
    made = list(gsm8k_gpu.parts(args, tmp_path))
    assert [p.name for p in made] == gsm8k_gpu.plan_names()
    assert len({p.result for p in made}) == len(made)
    assert all((ROOT / source).is_file() for p in made for source in p.sources)
    assert [p.command[0] for p in made] == ["-m"] * 3 + ["train.py"] * 10
    with pytest.raises(SystemExit, match=r"device: this wants a CUDA device, got 'cpu'; expected cuda\..*"):
        list(gsm8k_gpu.parts(gsm8k_gpu.Arguments(device="cpu"), tmp_path))
    with pytest.raises(SystemExit, match=r"size: unknown, got 'big'; expected one of full, reduced\."):
        list(gsm8k_gpu.parts(gsm8k_gpu.Arguments(size="big"), tmp_path))


def test_tests_are_counted(tmp_path: Path) -> None:
    """From pytest's own JUnit file."""
    file, junit = tmp_path / "test_two.py", tmp_path / "t.xml"
    file.write_text("import pytest\ndef test_a(): pass\n@pytest.mark.skip\ndef test_b(): pass\n")
    words = ["-m", "pytest", "-q", "-c", "/dev/null", str(file), f"--junit-xml={junit}"]
    assert gsm8k_gpu._run(words, None) == 0
    made = gsm8k_gpu._result(gsm8k_gpu.Part("tests", words, junit, "cpu"), 1.0)
    counts = {k: made["result"][k] for k in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": 2, "failures": 0, "errors": 0, "skipped": 1}
    assert made.keys() == KEYS
