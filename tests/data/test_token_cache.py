"""Tokens on disk: made again when anything that decides them changes or the files are damaged, else never."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors

from harness.config.job import Job
from harness.data import training_set
from harness.inputs.base_model import load_tokenizer
from harness.paths import ROOT
from harness.run import run
from tests.conftest import EOS, data_of, training_rows, write_jsonl


@pytest.fixture
def made(monkeypatch: Any) -> Callable[[Job, Any], tuple[Any, int]]:
    """made(job, tokenizer): data as a new process would read it, and how many chunks were tokenised for it."""

    def load(job: Job, tokenizer: Any) -> tuple[Any, int]:
        chunks = []
        with monkeypatch.context() as patch:
            patch.setattr(training_set, "_kept", {})
            true = training_set.tokenize
            patch.setattr(training_set, "tokenize", lambda rows, *a: chunks.append(rows) or true(rows, *a))
            read = data_of(job, tokenizer)
            return (list(read.train), read.counts), len(chunks)

    return load


def test_what_decides_the_tokens_is_in_the_key(
    small_job: Any, made: Any, data_dir: Path, tmp_path: Path, tokenizer: Any, model_dir: Path
) -> None:
    """Variant, seed, place of the file do not; contents, held-out questions, prompt, limit and tokenizer do."""
    first, chunks = made(small_job(), tokenizer)
    assert chunks == 1
    again = tmp_path / "again.jsonl"
    again.write_bytes((data_dir / "train.jsonl").read_bytes())
    for words in (["seed=3"], ["variant=full", "lr=1e-3"], ["eval.limit=2"], [f"data.train.path={again}"]):
        assert made(small_job(*words), tokenizer) == (first, 0)
    other = write_jsonl(tmp_path / "other.jsonl", training_rows(61))
    for words in (
        ["benchmark.valid_size=7"],
        ["benchmark.prompt='Q {query}:'"],
        ["benchmark.max_length=120"],
        [f"data.train.path={other}"],
        ["data.train.columns.query=original_question"],
    ):
        assert made(small_job(*words), tokenizer)[1] == 1, words
        assert made(small_job(*words), tokenizer)[1] == 0, words
    changed = load_tokenizer(dataclasses.replace(small_job().model, id=str(model_dir)))
    changed.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|pad|> $A", special_tokens=[("<|pad|>", 1)]
    )
    with_bos, chunks = made(small_job(), changed)
    assert chunks == 1
    assert [e.ids[1:] for e in with_bos[0]] == [e.ids for e in first[0]]


@pytest.mark.parametrize("name", ["ids.npy", "offsets.npy", "prompts.npy", "counts.json"])
def test_damaged_files_are_made_again(small_job: Any, made: Any, tokenizer: Any, name: str) -> None:
    """One bit anywhere, a file cut short, or gone."""
    job = small_job()
    first, _ = made(job, tokenizer)
    (file,) = job.cache_dir.glob(f"tokens/*/{name}")
    whole = file.read_bytes()
    flipped = [bytes(b ^ (n == k) for n, b in enumerate(whole)) for k in range(0, len(whole), len(whole) // 23 + 1)]
    for content in [*flipped, whole[:-3], whole[: len(whole) // 2], b"", None]:
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        assert made(job, tokenizer) == (first, 1)
        assert file.read_bytes() == whole
    assert made(job, tokenizer) == (first, 0)


PREPARE = """
import sys
from harness.config.schema import register
register()
from harness.config.compose import compositions
from harness.config.validate import job_from
from harness.data import training_set
from harness.data.load import load_data
from harness.hashing import sha256
from harness.inputs.base_model import load_tokenizer
from harness.inputs.fingerprints import Fingerprinter
(cfg,) = compositions(sys.argv[1:], multirun=False)
job, chunks, true = job_from(cfg), [], training_set.tokenize
training_set.tokenize = lambda rows, *a: chunks.append(print("chunk", flush=True)) or true(rows, *a)
read = load_data(job, load_tokenizer(job.model), Fingerprinter().of(job))
print(sha256([[e.ids, e.prompt] for e in read.train]), read.counts["train_examples"], len(chunks))
"""


@pytest.mark.slow
def test_two_processes_and_a_kill(overrides: list[str], tmp_path: Path) -> None:
    """Killed while it tokenises, nothing it left is read; of two started together one tokenises, both read the same."""
    file = write_jsonl(tmp_path / "many.jsonl", training_rows(4000))
    words = [*(w for w in overrides if not w.startswith(("data.train", "variant"))), f"data.train.path={file}"]

    def start() -> subprocess.Popen[str]:
        words_ = [sys.executable, "-c", PREPARE, *words, "variant=lora"]
        return subprocess.Popen(words_, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    with start() as killed:
        assert killed.stdout is not None
        while killed.stdout.readline() != "chunk\n":
            pass
        os.kill(killed.pid, signal.SIGKILL)
    (left,) = [p for p in (tmp_path / "cache" / "tokens").iterdir() if p.is_dir()]
    assert left.suffix == ".part"
    both = [start(), start()]
    lines = [p.communicate(timeout=120)[0].splitlines()[-1].split() for p in both]
    assert lines[0][:2] == lines[1][:2]
    assert sorted(int(line[2]) for line in lines) == [0, 4]
    (kept,) = [p for p in (tmp_path / "cache" / "tokens").iterdir() if p.is_dir()]
    assert kept.name.startswith(f"{left.stem}-")


def test_hub_data_is_the_same_only_at_the_same_commit(
    small_job: Any, made: Any, tokenizer: Any, monkeypatch: Any
) -> None:
    """A branch that has moved since is read and tokenised again. A process resolves it once, so it stays."""
    commits = iter(["a" * 40] * 2 + ["b" * 40] * 2 + ["a" * 40])
    monkeypatch.setattr("harness.inputs.fingerprints.commit_of", lambda *a: next(commits))
    monkeypatch.setattr("harness.inputs.rows.hub_rows", lambda source, where: training_rows(30))
    job = small_job()
    hub = dataclasses.replace(job.train_source, path=None, hub="some/set", revision="main")
    branch = dataclasses.replace(job, train_source=hub)
    assert [made(branch, tokenizer)[1] for _ in range(5)] == [1, 0, 1, 0, 0]


def test_a_file_that_changes_meanwhile_is_refused(small_job: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Its tokens would stand under the name of what it was before."""
    file = write_jsonl(tmp_path / "growing.jsonl", training_rows(40))
    job = small_job(f"data.train.path={file}")

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __call__(self, texts: list[str], **kw: Any) -> Any:
            time.sleep(0.01)
            file.write_text(file.read_text() + "\n")
            return tokenizer(texts, **kw)

    with pytest.raises(SystemExit, match=r"^data.train: changed while it was read, got '.*'\. Run the same command"):
        data_of(job, Slow())
    assert not list(job.cache_dir.glob("tokens/*/"))


@pytest.mark.slow
def test_jobs_of_a_process_share_tokens_and_match_a_fresh_process(
    small_job: Any, overrides: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    """The second job gives no training text to the tokenizer, and its record is that of a process of its own."""
    from transformers import PreTrainedTokenizerFast

    monkeypatch.setattr(training_set, "_kept", {})
    given: list[str] = []
    true = PreTrainedTokenizerFast.__call__

    def counting(self: Any, text: Any, **kw: Any) -> Any:
        given.extend([text] if isinstance(text, str) else text)
        return true(self, text, **kw)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", counting)
    records, trained_on = [], []
    for words in (["seed=0"], ["seed=1", "lr=3e-2"]):
        given.clear()
        records.append(run(small_job(*words)))
        trained_on.append(sum("The answer is: " in text for text in given))
    assert trained_on == [records[0]["data"]["train_examples"], 0]
    words = {w.partition("=")[0]: w for w in [*overrides, "seed=1", "lr=3e-2"]}
    words |= {k: f"{k}={tmp_path / 'fresh' / k}" for k in ("runs_dir", "cache_dir")}
    done = subprocess.run([sys.executable, "train.py", *words.values()], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "fresh" / "runs_dir").glob("*/result.json")
    fresh, shared = json.loads(path.read_text()), records[1]
    for key in ("run_id", "data", "valid", "test", "forgetting", "science_hash"):
        assert fresh[key] == shared[key], key
    assert fresh["provenance"]["order_hash"] == shared["provenance"]["order_hash"]
    for key in ("loss_first", "loss_last", "tokens"):
        assert fresh["train"][key] == shared["train"][key]
    assert EOS not in "".join(given)
