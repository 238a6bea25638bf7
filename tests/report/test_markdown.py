"""Generated parts of pages: only what stands between their marks changes."""

from __future__ import annotations

import pytest

from harness.report.markdown import fill_block


def test_only_the_part_between_the_marks_changes() -> None:
    begin, end = "<!-- results:begin (python cost_report.py writes this) -->", "<!-- results:end -->"
    page = f"before {begin[:10]}\n{begin}\nold | table\n{end}\nafter\n"
    changed = fill_block(page, "results", "NEW", "README.md")
    assert changed == page.replace("old | table", "NEW")
    assert fill_block(changed, "results", "NEW", "README.md") == changed
    for bad in ("nothing", begin, page + end, page + begin + "\n", f"{end}\n{begin}\n"):
        with pytest.raises(SystemExit, match=r"^README.md: no single block results; expected .* once each"):
            fill_block(bad, "results", "NEW", "README.md")
    assert r"new \1" in fill_block(page, "results", r"new \1", "README.md")
    again = fill_block(changed, "results", f"{begin}\n{end}", "README.md")  # marks in a text are none
    assert fill_block(again, "results", "NEW", "README.md") == changed
