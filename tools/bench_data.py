"""Seconds, rows/s and memory of preparing training data, on a made-up file of MetaMathQA's shape and size.

  python -m tools.bench_data rows=395000 tokenizer=<folder, or .gguf file>

The file is one JSON array of objects with MetaMathQA's columns, queries of about 60 and responses of about 110 words;
it is made in cache_dir and kept. Measured is what a run does (benchmark=gsm8k: 1,000 held-out questions, 768 tokens),
for a quarter of the rows and for all of them, each in a fresh process: tokenised, then from the cache. RSS is the
process's peak; `before` is what it holds with its libraries and tokenizer loaded. Seconds of CPU, of all cores
together, are what another load on the machine changes least.
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
from typing import Any

from harness.data.training_set import _kept

QUESTIONS = 7473  # as many as GSM8K's training questions


@dataclass
class Arguments:
    tokenizer: str
    rows: int = 395_000
    threads: int | None = None
    cache_dir: str = ".cache"
    measure: str = ""  # a data file: measure this one, in this process


def main(argv: list[str]) -> None:
    from harness.cli.arguments import parse

    args = parse(Arguments, argv, __doc__ or "")
    from harness.errors import integer
    from harness.paths import under_root

    integer("rows", args.rows, lo=4)
    folder = under_root(args.cache_dir) / "bench_data"
    if args.measure:
        measure(Path(args.measure), folder, args)
        return
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "questions.jsonl", "", "\n", "\n", questions())
    for rows in (args.rows // 4, args.rows):
        file = folder / f"rows-{rows}.json"
        if not file.exists():
            _write(file, "[\n", ",\n", "\n]\n", training_rows(rows))
        print(f"{file}: {rows:,} rows, {file.stat().st_size / 1e6:.0f} MB", flush=True)
        subprocess.run([sys.executable, "-m", "tools.bench_data", *argv, f"measure={file}"], check=True)


def measure(file: Path, folder: Path, args: Arguments) -> None:
    """Prepares one file twice, from nothing and from the cache, and prints a line for each."""
    from harness.data.load import load_data
    from harness.inputs.base_model import load_tokenizer
    from harness.measure.cost import peak_rss_bytes, reset_peak_rss

    with tempfile.TemporaryDirectory(dir=folder) as cache:
        job = _job(file, folder, args, cache)
        tokenizer = load_tokenizer(job.model)
        reset_peak_rss()
        print(f"  before: {peak_rss_bytes() / 1e6:.0f} MB RSS")
        for what in ("tokenised", "from the cache"):
            _kept.clear()
            reset_peak_rss()
            start, cpu = time.perf_counter(), time.process_time()
            rows = load_data(job, tokenizer).counts["train_rows"]
            taken, cpu = time.perf_counter() - start, time.process_time() - cpu
            peak = peak_rss_bytes() / 1e6
            print(f"  {what}: {taken:.1f} s ({cpu:.1f} s of CPU), {rows / taken:,.0f} rows/s, peak {peak:.0f} MB RSS")


def _job(file: Path, folder: Path, args: Arguments, cache: str) -> Any:
    from harness.config.compose import compositions
    from harness.config.schema import register
    from harness.config.validate import job_from

    register()
    place = Path(args.tokenizer)
    questions = folder / "questions.jsonl"
    words = ["benchmark=gsm8k", "data=files", "model=hub", "model.revision=null", f"cache_dir={cache}"]
    words += [f"data.train.path={file}", f"data.questions.path={questions}", f"data.test.path={questions}"]
    words += [f"threads={args.threads}"] if args.threads is not None else []
    gguf = place.suffix == ".gguf"
    words += [f"model.id={place.parent if gguf else place}", *([f"model.gguf_file={place.name}"] * gguf)]
    (cfg,) = compositions(words, multirun=False)
    return job_from(cfg)


# -- the file ----------------------------------------------------------------------------------------------------------
def questions() -> Iterator[dict[str, str]]:
    return ({"question": _question(n), "answer": f"{_text(n, 40)}\n#### {n}"} for n in range(QUESTIONS))


def training_rows(count: int) -> Iterator[dict[str, str]]:
    for n in range(count):
        original = _question(n % QUESTIONS)
        query = original if n < QUESTIONS else f"{_text(QUESTIONS + n, 57)} How many are there?"
        response = f"{_text(-n - 1, 103)}\n#### {n}\nThe answer is: {n}"
        yield {"type": "made up", "query": query, "original_question": original, "response": response}


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
    from adapters._bases import atomic_file

    with atomic_file(file) as temporary, open(temporary, "w", encoding="utf-8") as out:
        out.write(begin)
        for n, row in enumerate(rows):
            out.write((between if n else "") + json.dumps(row, ensure_ascii=False))
        out.write(end)


if __name__ == "__main__":
    main(sys.argv[1:])
