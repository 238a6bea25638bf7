"""make gsm8k-gpu: parts run once, in order, within a time limit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from harness.paths import ROOT
from tools import gsm8k_gpu


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
    own = [f"VENV={folder}", f"GPU_STAMPS={folder / 'stamps'}", "GSM8K=data"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    done = subprocess.run(["make", *own, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 2), done.stderr
    return done.returncode, re.findall(r"-m tools\.gsm8k_gpu (.*part=.*)", log.read_text())


def test_make_continues_where_it_stopped(tmp_path: Path) -> None:
    """Parts run in order, each once; one that fails runs again, alone, and a changed source runs a part again."""
    names = [f"size=full part={name} until= gsm8k=data" for name in "abc"]
    (tmp_path / "fail").touch()
    assert make(tmp_path, "gsm8k-gpu") == (2, names)
    assert make(tmp_path, "gsm8k-gpu") == (2, names[1:2])
    (tmp_path / "fail").unlink()
    assert make(tmp_path, "gsm8k-gpu") == (0, names[1:2])
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
        ("tools/benches/steps.py", "bench"),
        ("harness/loss.py", "bench"),
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
        size = {"out": str(tmp_path / "out"), "bench": list(command), "common": [], "tests": []}
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
    assert names == gsm8k_gpu.part_names() == ["tests", "bench", *plan["runs"]]
    assert plan["sizes"]["full"].keys() == plan["sizes"]["reduced"].keys()
    files = set()
    for name in names:
        args = gsm8k_gpu.Arguments(part=name, size="reduced", device="cpu")
        command, file = gsm8k_gpu.command_of(args, plan, tmp_path)
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
    with pytest.raises(
        SystemExit,
        match=r"part: unknown, got 'x'; expected one of tests, bench, run-lora, run-antipasto_dplr, run-none",
    ):
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
