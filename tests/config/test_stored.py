"""What comes from a stranger's run folder, and what of a command line must not get into one."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.config.keys import read_stored
from harness.config.secrets import masked
from harness.paths import PUBLISHED
from harness.run import run

BOMB = "a: &a [1, 1]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghij"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "a YAML alias"),
        ("seed: 0\nmodel: {id: '${oc.env:HOME}'}", r"an interpolation \$\{…\}"),
        ("#" * 2_000_000, "too large"),
        ("- 1", "not a mapping"),
        ("seed: abc", ".*"),
        ("a: [", ".*"),
        ("[" * 9000, "too large"),
        ("!!python/object/apply:os.system [ls]", ".*"),
    ],
    ids=["bomb", "environment", "large", "list", "type", "yaml", "deep", "python"],
)
def test_a_strangers_config_is_refused_in_one_line(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(SystemExit) as stopped:
        read_stored(tmp_path / "config.yaml")
    assert re.fullmatch(rf"\S+/config.yaml: not a run's config \({reason}\); expected .*\.", str(stopped.value.code))


def test_the_configs_of_published_records_are_read() -> None:
    paths = sorted(PUBLISHED.glob("*/config.yaml"))
    assert paths
    for path in paths:
        assert read_stored(path).variant == yaml.safe_load(path.read_text())["variant"]


def test_a_jobs_targets_are_checked(small_job: Any) -> None:
    with pytest.raises(SystemExit, match="targets: regex could backtrack forever"):
        small_job("targets='(a+)+$'")
    with pytest.raises(SystemExit, match="targets: regex could backtrack forever"):
        small_job("variant.targets=[q_proj,'(a+)+$']")


def test_credentials_do_not_get_into_a_record(small_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Typed words, config and record of a run; nothing else is changed."""
    secrets = ["https://user:hunter2@host/m", "hf_abcdefgh1234", "hf_token=tr0ub4dor"]
    monkeypatch.setattr("sys.argv", ["train.py", *secrets, "eval.max_new_tokens=12"])
    job = small_job("tracking.project='https://user:hunter2@host'")
    record = run(job)
    assert record["provenance"]["argv"] == ["https://***@host/m", "hf_***", "hf_token=***", "eval.max_new_tokens=12"]
    for path in (job.runs_dir / record["run_id"]).glob("*.*"):
        assert not re.search(rb"hunter2|abcdefgh1234|tr0ub4dor", path.read_bytes()), path
    for path in PUBLISHED.glob("*/result.json"):
        stored = json.loads(path.read_text())
        assert masked(stored) == stored
