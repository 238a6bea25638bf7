"""The smoke run: its checks can fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools import gsm8k_smoke


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
