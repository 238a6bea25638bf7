"""What arrived in wandb's offline file is what the run wrote itself."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness.run import run
from harness.schema import ROOT


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


def test_config_curves_and_result_arrive(small_job: Any, tmp_path: Path) -> None:
    record = run(small_job("tracking=wandb"))
    (file,) = (tmp_path / "cache" / "wandb").glob("offline-run-*/*.wandb")
    rows, summary, config, exits = [], {}, {}, []
    for r in records(file):
        if r.HasField("history"):
            rows.append({(i.key or i.nested_key[0]): json.loads(i.value_json) for i in r.history.item})
        elif r.HasField("summary"):
            summary |= {(i.key or i.nested_key[0]): json.loads(i.value_json) for i in r.summary.update}
        elif r.HasField("run"):
            config |= {(u.key or u.nested_key[0]): json.loads(u.value_json) for u in r.run.config.update}
        elif r.HasField("exit"):
            exits.append(r.exit.exit_code)
    folder = tmp_path / "runs" / record["run_id"]
    wanted = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(r["_step"], r["loss"], r["lr"]) for r in rows] == [(w["step"], w["loss"], w["lr"]) for w in wanted]
    assert config["science"] == record["science"]
    assert config["run_id"] == record["run_id"]
    for key in ("test", "valid", "status", "trainable_params", "memory", "forgetting"):
        assert summary[key] == json.loads(json.dumps(record[key]))
    assert exits == [0]


def test_off_imports_nothing(overrides: list[str]) -> None:
    code = "import sys; from harness.cli import compositions; from harness.job import job_from\n"
    code += "from harness.run import run\n"
    code += (
        f"(cfg,) = compositions({overrides!r}, multirun=False); run(job_from(cfg)); assert 'wandb' not in sys.modules"
    )
    setup = "from harness.schema import register; register()\n"
    done = subprocess.run([sys.executable, "-c", setup + code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
