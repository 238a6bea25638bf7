"""Seconds, rows/s and memory of preparing training data, on a generated file of MetaMathQA's shape and size.

python -m tools.bench_data tokenizer=<folder, or .gguf file>
    rows=395000
    threads=<count>     CPU threads; empty: torch's default
    cache_dir=.cache    the generated file is kept there

The file is one JSON array of objects with MetaMathQA's columns, queries of about 60 and responses of about 110 words.
A quarter of the rows and then all of them are prepared as in a run (benchmark=gsm8k: 1,000 held-out questions, 768
tokens), first without and then with a cache, each in a fresh process. RSS is what the process holds with its libraries
and tokenizer loaded, and its peak after that. CPU seconds, summed over cores, suffer least from other load.
"""

from __future__ import annotations

import functools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.cli.arguments import parse
from tools._shared import job_of, timed

QUESTIONS = 7473  # as many as GSM8K's training questions


@dataclass
class Arguments:
    tokenizer: str
    rows: int = 395_000
    threads: int | None = None
    cache_dir: str = ".cache"
    measure: str = ""  # internal: the data file that this process is to prepare, with its cache in cache_dir


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    from harness.errors import integer
    from harness.paths import under_root

    integer("rows", args.rows, lo=4)
    if args.measure:
        measure(Path(args.measure), args)
        return
    folder = under_root(args.cache_dir) / "bench_data"
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "questions.jsonl", "", "\n", "\n", questions())
    for rows in (args.rows // 4, args.rows):
        file = folder / f"rows-{rows}.json"
        if not file.exists():
            _write(file, "[\n", ",\n", "\n]\n", training_rows(rows))
        print(f"{file}: {rows:,} rows, {file.stat().st_size / 1e6:.0f} MB", flush=True)
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            words = [sys.executable, "-m", "tools.bench_data", *argv, f"measure={file}", f"cache_dir={cache}"]
            for what in ("tokenised", "from the cache"):
                print(f"  {what}:", flush=True)
                subprocess.run(words, check=True)


def measure(file: Path, args: Arguments) -> None:
    """Prepares the file and prints what that took."""
    from harness.cli.quiet import quiet
    from harness.data.load import load_data
    from harness.inputs.base_model import load_tokenizer
    from harness.inputs.fingerprints import Fingerprinter
    from harness.measure.cost import peak_rss_bytes, reset_peak_rss

    place, questions = Path(args.tokenizer), file.parent / "questions.jsonl"
    words = ["benchmark=gsm8k", "data=files", "model=hub", "model.revision=null", f"cache_dir={args.cache_dir}"]
    words += [f"data.train.path={file}", f"data.questions.path={questions}", f"data.test.path={questions}"]
    words += [f"threads={args.threads}"] if args.threads is not None else []
    gguf = place.suffix == ".gguf"
    words += [f"model.id={place.parent if gguf else place}", *([f"model.gguf_file={place.name}"] * gguf)]
    quiet()
    job = job_of(words)
    tokenizer, prints = load_tokenizer(job.model), Fingerprinter().of(job)
    reset_peak_rss()
    before, cpu = peak_rss_bytes() / 1e6, time.process_time()
    seconds, data = timed(lambda: load_data(job, tokenizer, prints))
    cpu, rows, peak = time.process_time() - cpu, data.counts["train_rows"], peak_rss_bytes() / 1e6
    print(f"  {seconds:.1f} s ({cpu:.1f} s of CPU), {rows / seconds:,.0f} rows/s, RSS {before:.0f} -> {peak:.0f} MB")


# -- the file ----------------------------------------------------------------------------------------------------------
def questions() -> Iterator[dict[str, str]]:
    return ({"question": _question(n), "answer": f"{_text(n, 40)}\n#### {n}"} for n in range(QUESTIONS))


def training_rows(count: int) -> Iterator[dict[str, str]]:
    for n in range(count):
        original = _question(n % QUESTIONS)
        query = original if n < QUESTIONS else f"{_text(QUESTIONS + n, 57)} How many are there?"
        response = f"{_text(-n - 1, 103)}\n#### {n}\nThe answer is: {n}"
        yield {"type": "generated", "query": query, "original_question": original, "response": response}


def _question(n: int) -> str:
    return f"{_text(n, 57)} What is number {n}?"


def _text(seed: int, length: int) -> str:
    """`length` words of an English text in random order, about one in twelve a number."""
    return " ".join(random.Random(seed).choices(_words(), k=length))


@functools.cache
def _words() -> list[str]:
    from harness.paths import ROOT

    words = (ROOT / "harness" / "texts" / "general.txt").read_text(encoding="utf-8").split()
    return words + [str(n) for n in range(0, 1000, 12)]


def _write(file: Path, begin: str, between: str, end: str, rows: Iterator[dict[str, str]]) -> None:
    from adapters import atomic_file

    with atomic_file(file) as temporary, open(temporary, "w", encoding="utf-8") as out:
        out.write(begin)
        for n, row in enumerate(rows):
            out.write((between if n else "") + json.dumps(row, ensure_ascii=False))
        out.write(end)


if __name__ == "__main__":
    main(sys.argv[1:])
