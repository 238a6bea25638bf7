"""Settings that cannot hold together are refused in one line."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["tracking=wandb", "tracking.mode=live"], "tracking.mode: unknown mode, got 'live'; expected offline or onl"),
        (["tracking=wandb", "tracking.mode=online"], "tracking.mode: no login for wandb on this machine"),
        (["tracking.mode=online"], "tracking.mode: nothing is tracked, got 'online'. Add tracking=wandb."),
    ],
)
def test_tracking_refuses_in_one_line(small_job: Any, monkeypatch: Any, words: list[str], line: str) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nowhere")
    with pytest.raises(SystemExit) as refused:
        small_job(*words)
    assert str(refused.value.code).startswith(line)
