"""Published records to README.md and reports/; local runs to the terminal and reports/local/."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pandas as pd

from adapters import atomic_file
from harness.errors import refuse
from harness.paths import PUBLISHED, ROOT, under_root
from harness.records.record import FINAL, NAME, one_line
from harness.records.store import UNREADABLE, outcome, read_records
from harness.report.build import REPORTS, build, files
from harness.report.generated import check_unchanged, rewrite
from harness.report.others import read_peft
from harness.report.readme import terminal_tables
from harness.report.table import rows

KEPT = ("config.yaml", "metrics.jsonl", "result.json")  # small and enough for every table and plot; the record last
PLACES = re.compile(rb"""\b(runs|cache)_dir(=|: )(?=['"]?/)[^"\n]*""")  # absolute, in argv and in config.yaml
LARGEST_FILE = 16_000_000  # bytes; the losses of 100,000 steps


# -- writing -----------------------------------------------------------------------------------------------------------
def rebuild() -> None:
    """Writes README and reports/ from the published records."""
    texts, skipped = build()
    for line in rewrite(texts, REPORTS / "plots"):
        print(line)
    for line in skipped:
        print(f"not counted: {line}")


def check() -> None:
    """Raises SystemExit(1) naming every file that differs from what the published records give."""
    texts, skipped = build()
    for line in skipped:
        print(f"not counted: {line}")
    check_unchanged(texts, "runs/published gives. Run python cost_report.py and commit.", REPORTS / "plots")
    print(f"README.md and reports/ agree with {PUBLISHED.relative_to(ROOT)}")


def publish(ids: list[str], runs_dir: str, *, force: bool = False) -> None:
    """Copies records of finished runs, their configs and losses to runs/published/.

    Raises BadInput before anything is copied: for what is no finished run of this name, for links and large files, and
    for a published id, which only `force` replaces.
    """
    copies = {name: _files(under_root(runs_dir), name) for name in dict.fromkeys(ids)}
    for name, contents in copies.items():
        if (PUBLISHED / name).exists() and not force:
            old = {f: (PUBLISHED / name / f).read_bytes() for f in KEPT if (PUBLISHED / name / f).is_file()}
            if old != contents:
                raise refuse(f"publish={name}", "published already", remedy="force=true replaces it.")
    for name, contents in copies.items():
        target = PUBLISHED / name
        target.mkdir(parents=True, exist_ok=True)
        for file in set(KEPT) - contents.keys():
            (target / file).unlink(missing_ok=True)
        for file, data in contents.items():
            with atomic_file(target / file) as temporary:
                temporary.write_bytes(data)
        print(f"published {name}")


def _files(base: Path, name: str) -> dict[str, bytes]:
    """File name → bytes of what is published of a run: without the folders of this machine that it used.

    Raises BadInput unless it is a finished run of this very id.
    """
    where, folder = f"publish={name}", base / name
    if not NAME.fullmatch(name):
        raise refuse("publish", "not a run id", got=name, expected="the name of a folder in runs_dir")
    if folder.is_symlink():
        raise refuse(where, "is a link", got=str(folder), expected="a run's own folder")
    contents = {}
    for file in KEPT:
        try:
            # Opened without following a link or waiting for a pipe, and judged by the open file.
            handle = os.open(folder / file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise refuse(where, f"{file} cannot be read ({error.strerror}); links are not followed") from None
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode) or state.st_size > LARGEST_FILE:
            os.close(handle)
            raise refuse(where, f"{file} is not a regular file of at most {LARGEST_FILE:,} bytes")
        with open(handle, "rb") as opened:
            contents[file] = PLACES.sub(_default_place, opened.read())
    try:
        status = outcome(folder)["status"]
    except FileNotFoundError:
        raise refuse(where, "no finished run of this id", expected="a folder with result.json in runs_dir") from None
    except UNREADABLE as error:
        raise refuse(where, f"not a finished run ({one_line(str(error))})", expected="done or diverged") from None
    if status not in FINAL:
        raise refuse(where, "not a finished run", got=status, expected="done or diverged")
    return contents


def _default_place(match: re.Match[bytes]) -> bytes:
    return match[1] + b"_dir" + match[2] + {b"runs": b"runs", b"cache": b".cache"}[match[1]]


def show(runs_dir: str, compare: str = "") -> None:
    """Published and local runs together, and PEFT's results from `compare`: on the terminal and in reports/local/."""
    base = under_root(runs_dir)
    read = read_records([base, PUBLISHED])
    others, skipped = read_peft(under_root(compare)) if compare else (pd.DataFrame(), [])
    for line in read.skipped + skipped:
        print(f"not counted: {line}")
    frames = [frame for frame in (rows(read.records), others) if not frame.empty]
    shown = pd.concat(frames or [pd.DataFrame()], ignore_index=True)
    if shown.empty:
        print("no finished runs yet")
        return
    local = REPORTS / "local"
    rewrite(
        {local / name: text for name, text in files(shown, read.records, [base, PUBLISHED]).items()}, local / "plots"
    )
    print(terminal_tables(shown))
    print(f"Every column and the page: {local} (`make page`, then /local/).")
