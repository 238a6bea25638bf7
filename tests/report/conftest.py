"""A study of runs that never ran, its table, and a copy of what cost_report.py writes."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.report.build import README, build
from harness.report.table import rows
from tests import factory

RECORDS = factory.study(seeds=3, questions=120)


@pytest.fixture(scope="session")
def frame() -> pd.DataFrame:
    return rows(RECORDS)


def chosen(frame: pd.DataFrame, variant: str) -> Any:
    (row,) = [r for _, r in frame[frame["chosen"]].iterrows() if r["variant"] == variant]
    return row


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: Any) -> Path:
    """A folder with a copy of README, as all that cost_report.py rebuilds and publishes to."""
    shutil.copyfile(README, tmp_path / "README.md")
    published = tmp_path / "runs" / "published"
    for name, path in (
        ("publish.ROOT", tmp_path),
        ("publish.REPORTS", tmp_path / "reports"),
        ("publish.PUBLISHED", published),
        ("publish.build", functools.partial(build, published)),
        ("build.README", tmp_path / "README.md"),
        ("build.REPORTS", tmp_path / "reports"),
    ):
        monkeypatch.setattr(f"harness.report.{name}", path)
    return tmp_path
