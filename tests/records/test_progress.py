"""How far a sweep has come, from its records."""

from __future__ import annotations

import re
from typing import Any

from harness.records.progress import begin_sweep, end_sweep, progress
from harness.run import run


def test_a_sweeps_jobs_say_how_far_it_has_come(small_job: Any, capsys: Any) -> None:
    """Only runs that ended since it began count; a run that was done in it is not forced again; nothing outside one."""
    runs_dir = small_job().runs_dir
    run(small_job())
    assert progress(runs_dir) == ""
    begin_sweep(3)
    try:
        assert progress(runs_dir) == " [0 of 3 runs done]"
        for n in (0, 1, 1):
            run(small_job(f"seed={n}", "force=true"), in_sweep=True)
        began = re.findall(r"seed(\d)\S*: run on cpu \[(\d of 3) runs done", capsys.readouterr().out)
        assert began == [("0", "0 of 3"), ("1", "1 of 3")]
        assert re.fullmatch(r" \[2 of 3 runs done, about \d+ s left\]", progress(runs_dir))
    finally:
        end_sweep()
    assert progress(runs_dir) == ""
