"""What arrived in wandb's offline file is what the run wrote itself."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.paths import ROOT
from harness.records.plan import begin, plan
from harness.records.tracking import Wandb, start_tracking
from harness.run import run
from harness.training.metrics import DivergedError
from tests.programs import with_words


def records(file: Path) -> list[Any]:
    """wandb's offline file: a 7-byte head, then LevelDB's log format (blocks of 32 KiB, parts typed 1 to 4)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, part, found = file.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            found.append(Record.FromString(part))
            part = b""
    return found


@dataclass
class Tracked:
    """What one offline file holds."""

    id: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    exits: list[int] = field(default_factory=list)


def tracked(cache: Path) -> list[Tracked]:
    """Every offline run below a cache folder, oldest first; wandb's own process may still be writing the last one."""
    deadline = time.monotonic() + 20
    while not (found := read(cache))[-1].exits and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def read(cache: Path) -> list[Tracked]:
    found = []
    for file in sorted((cache / "wandb").glob("offline-run-*/*.wandb"), key=lambda p: p.stat().st_ctime):
        one = Tracked()
        for r in records(file):
            if r.HasField("history"):
                one.rows.append({(i.key or i.nested_key[0]): json.loads(i.value_json) for i in r.history.item})
            elif r.HasField("summary"):
                one.summary |= {(i.key or i.nested_key[0]): json.loads(i.value_json) for i in r.summary.update}
            elif r.HasField("run"):
                one.id = r.run.run_id
                one.config |= {(u.key or u.nested_key[0]): json.loads(u.value_json) for u in r.run.config.update}
            elif r.HasField("exit"):
                one.exits.append(r.exit.exit_code)
        found.append(one)
    return found


def steps_written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_config_curves_and_result_arrive(small_job: Any, tmp_path: Path) -> None:
    record = run(small_job("tracking=wandb"))
    (one,) = tracked(tmp_path / "cache")
    wanted = steps_written(tmp_path / "runs" / record["run_id"])
    assert [(r["_step"], r["loss"], r["lr"]) for r in one.rows] == [(w["step"], w["loss"], w["lr"]) for w in wanted]
    assert one.config["science"] == record["science"]
    assert one.config["run_id"] == record["run_id"]
    for key in ("test", "valid", "status", "trainable_params", "memory", "forgetting"):
        assert one.summary[key] == json.loads(json.dumps(record[key]))
    assert one.exits == [0]


@pytest.mark.slow
@pytest.mark.parametrize("file", ["metrics.jsonl", "predictions.jsonl"])
def test_a_killed_run_goes_on_in_the_same_curve(overrides: list[str], tmp_path: Path, file: str) -> None:
    """The file of the second session has the first one's id and all of the curve, every step once, and the result."""
    more = ["tracking=wandb", "steps=60", "train.checkpoint_every=9", "eval.batch_size=1"]
    words = with_words(overrides, *more)
    folder = tmp_path / "runs"
    alone = {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"}  # that of other tests' runs in this process
    process = subprocess.Popen([sys.executable, "train.py", *words], cwd=ROOT, stderr=subprocess.DEVNULL, env=alone)
    begun = lambda: [p for p in folder.glob(f"*/{file}") if p.read_bytes().count(b"\n") > 3]
    while process.poll() is None and not begun():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    time.sleep(2)  # wandb's own process writes what it was given
    again = subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, capture_output=True, text=True, env=alone)
    assert again.returncode == 0, again.stderr
    (name,) = (p.name for p in folder.iterdir())
    first, second = tracked(tmp_path / "cache")
    assert first.id in ("", second.id)  # killed, it may have written nothing at all
    assert first.exits != [0]
    curve = [(r["_step"], r["loss"]) for r in second.rows]
    assert curve == [(w["step"], w["loss"]) for w in steps_written(folder / name)]
    assert len(curve) == 60
    assert (second.exits, second.summary["status"]) == ([0], "done")


@pytest.mark.parametrize(("status", "code"), [("failed", 1), ("diverged", 1), ("interrupted", 130)])
def test_other_ends_are_shown_as_what_they_are(
    small_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, code: int
) -> None:
    """A run that did not finish well is not "finished" for the tracker, and its error arrives."""
    endings = {
        "failed": ValueError("nothing works"),
        "diverged": DivergedError("loss nan at step 3"),
        "interrupted": KeyboardInterrupt(),
    }

    def end(*_: Any) -> Any:
        raise endings[status]

    monkeypatch.setattr("harness.run.train", end)
    with nullcontext() if status == "diverged" else pytest.raises((ValueError, KeyboardInterrupt)):
        run(small_job("tracking=wandb"))
    (one,) = tracked(tmp_path / "cache")
    assert (one.summary["status"], one.exits) == (status, [code])
    if status != "interrupted":
        assert one.summary["error"]["message"] == str(endings[status])


@pytest.mark.slow
def test_off_imports_nothing(overrides: list[str]) -> None:
    code = "import sys; from harness.config.compose import compositions; from harness.config.validate import job_from\n"
    code += "from harness.run import run\n"
    code += (
        f"(cfg,) = compositions({overrides!r}, multirun=False); run(job_from(cfg)); assert 'wandb' not in sys.modules"
    )
    setup = "from harness.config.schema import register; register()\n"
    done = subprocess.run([sys.executable, "-c", setup + code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"id": 7}', b'{"id": ""}', b"\xff", b'{"other": "x"}']
)
def test_a_damaged_mark_begins_another_curve(small_job: Any, monkeypatch: Any, content: bytes) -> None:
    """A tracker never ends a run: what a kill left of tracking.json is replaced, and the new id is kept."""
    planned = plan(small_job("tracking=wandb"))
    begin(planned)
    mark = planned.folder / "checkpoint" / "tracking.json"
    mark.write_bytes(content)
    monkeypatch.setattr(Wandb, "_begin", lambda *args: None)
    first, second = (start_tracking(planned, print) for _ in range(2))
    assert isinstance(first, Wandb)
    assert isinstance(second, Wandb)
    assert first.id == second.id == json.loads(mark.read_text())["id"] != ""
