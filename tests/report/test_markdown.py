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
    for bad in ("", "nothing", begin, end, page + end, page + begin + "\n", f"{end}\n{begin}\n", page + page):
        with pytest.raises(SystemExit, match=r"^README.md: no single block results; expected .* once each"):
            fill_block(bad, "results", "NEW", "README.md")
    assert r"new \1" in fill_block(page, "results", r"new \1", "README.md")
    again = fill_block(changed, "results", f"{begin}\n{end}", "README.md")  # marks in a text are none
    assert fill_block(again, "results", "NEW", "README.md") == changed


def test_a_block_is_filled_beside_marks_of_others() -> None:
    """And marks that stand twice, on either side, are refused."""
    begin, end = "<!-- costs:begin (x writes this) -->\n", "<!-- costs:end -->"
    page = f"a\n{begin}old\n<!-- other:begin -->\n{end}\nb <!-- costs: -->\n"
    assert fill_block(page, "costs", r"new \1", "p.md") == f"a\n{begin}new \\1\n{end}\nb <!-- costs: -->\n"
    for broken in (f"{begin}{begin}{end}", f"{begin}{end}{end}"):
        with pytest.raises(SystemExit, match=r"p\.md: no single block costs; expected <!-- costs:begin … --> and .*"):
            fill_block(broken, "costs", "x", "p.md")
