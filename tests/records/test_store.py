"""Records of a folder: what is none is named with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.records.store import read_records
from tests import factory


def record(variant: str = "lora", seed: int = 0, *, status: str = "done", **more: Any) -> dict[str, Any]:
    """With these fields in place of its own; ten of 40 questions are answered rightly."""
    return factory.record(variant, seed, right=[n % 4 == 0 for n in range(40)], status=status) | more


def test_what_is_no_finished_record_is_named_and_not_counted(tmp_path: Path) -> None:
    """Each with a reason; the rest are read."""
    good = [record(seed=0), record(seed=1), record("hra", status="diverged"), record("ia3", status="failed")]
    factory.write(tmp_path, *good)
    alone = read_records([tmp_path]).records
    broken: dict[str, Any] = {
        "empty": "",
        "half": json.dumps(record())[:200],
        "binary": b"\xff\x00",
        "list": "[1, 2]",
        "text": '"done"',
        "foreign": '{"accuracy": 0.9}',
        "newer": json.dumps(record(run_id="newer", schema_version=4)),
        "copied": json.dumps(record()),
        "interrupted": json.dumps(record(run_id="interrupted") | {"status": "interrupted"}),
        "odd": json.dumps(record(run_id="odd") | {"status": "half done"}),
        "bits": json.dumps(record(run_id="bits", test=record()["test"] | {"correct_bits": "ff"})),
        "sum": json.dumps(record(run_id="sum", test=record()["test"] | {"correct": 39, "accuracy": 39 / 40})),
    }
    for key in ("test", "valid", "memory", "cost", "seconds", "variant", "trainable_params", "adapter_file_bytes"):
        broken[f"no_{key}"] = json.dumps({k: v for k, v in record(run_id=f"no_{key}").items() if k != key})
    for name, content in broken.items():
        (tmp_path / name).mkdir()
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name / "result.json").write_bytes(data)
    (tmp_path / "started").mkdir()
    (tmp_path / "a file").write_text("")
    factory.write(tmp_path / "published", record("dora"))
    factory.write(tmp_path / ".replaced", record("pissa"))

    found = read_records([tmp_path, tmp_path / "no such folder"])
    assert sorted(r["run_id"] for r in found.records) == sorted(r["run_id"] for r in good)
    assert found.records == alone
    assert sorted(line.split(":")[0] for line in found.skipped) == sorted([*broken, "started"])
    assert all(len(line.split(": ", 1)[1]) > 8 and "\n" not in line for line in found.skipped)
