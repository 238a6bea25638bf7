"""Shared fixtures: a random two-layer Qwen3 with a byte tokenizer, small data files, jobs composed from conf/."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import adapters as ad
from harness.config.compose import compositions
from harness.config.job import Job
from harness.config.schema import register
from harness.config.validate import job_from
from harness.data.load import Data, load_data
from harness.data.tokenize import Example
from harness.inputs.fingerprints import Fingerprinter
from harness.records.ids import science
from harness.records.plan import plan

EOS, PAD = "<|end|>", "<|pad|>"


def make_tokenizer() -> Any:
    """One token per byte: lossless, needs no training, and every prompt has a length of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: n for n, c in enumerate([EOS, PAD, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD)


def make_model(vocabulary: int, **other: Any) -> Any:
    """Random weights, larger than usual: logits far apart make greedy texts varied and ties improbable."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "tie_word_embeddings": True,
        "initializer_range": 0.4,
        "eos_token_id": 0,
        "pad_token_id": 1,
    }
    return Qwen3ForCausalLM(Qwen3Config(**(settings | other))).eval()


@pytest.fixture(scope="session", autouse=True)
def _schema() -> None:
    register()  # what importing train.py does


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="session")
def _weights(tokenizer: Any) -> Any:
    return make_model(len(tokenizer)).state_dict()


@pytest.fixture
def model(tokenizer: Any, _weights: Any) -> Any:
    """A fresh model each time, always with the same weights."""
    fresh = make_model(len(tokenizer))
    fresh.load_state_dict(_weights)
    return fresh


@pytest.fixture(scope="session")
def model_dir(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("model")
    make_model(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def examples(count: int = 24) -> list[Example]:
    """Random tokens; one in three holds the pad and EOS ids inside its text and among its labels."""
    generator = torch.Generator().manual_seed(3)
    out = []
    for n in range(count):
        length = 6 + int(torch.randint(20, (), generator=generator))
        ids = torch.randint(2, 200, (length,), generator=generator).tolist()
        if n % 3 == 0:
            ids[2], ids[-2] = 1, 0
        out.append(Example((*ids, 0), 2 + n % 4))
    return out


@contextmanager
def attached(model: Any, variant: str = "lora") -> Iterator[Any]:
    fields = {"lora": {"r": 4, "alpha": 8.0}, "antipasto_dplr": {"r": 8, "lora_rank": 4}}.get(variant, {})
    with ad.attach(model, ad.VARIANTS[variant].Config(**fields), seed=5) as handle:
        yield handle


def training_rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Rows of MetaMathQA's columns, two per original question, of very different lengths."""
    rng, rows = random.Random(seed), []
    for n in range(count):
        k = n // 2
        query = f"What is {k} plus {k % 7}{'?' * rng.randrange(1, 9)}"
        response = f"{'so ' * rng.randrange(0, 8)}#### {k + k % 7}\nThe answer is: {k + k % 7}"
        original = query_of(k) if n % 2 else f"  {query_of(k).upper()} "  # differs in case and white space only
        rows.append({"type": "t", "query": query, "original_question": original, "response": response})
    return rows


def query_of(k: int) -> str:
    return f"Add {k} and {k % 7}."


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.jsonl (60 rows of 30 questions), questions.jsonl (30), test.jsonl (10), and other.txt for forgetting."""
    folder = tmp_path_factory.mktemp("data")
    write_jsonl(folder / "train.jsonl", training_rows(60))
    asked = [{"question": query_of(k), "answer": f"{k}+{k % 7}\n#### {k + k % 7}"} for k in range(40)]
    write_jsonl(folder / "questions.jsonl", asked[:30])
    write_jsonl(folder / "test.jsonl", asked[30:])
    (folder / "other.txt").write_text("Some text that is not the task.\n\nAnother paragraph of it.\n")
    return folder


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For tests that only ask for the embedded benchmark's ids: hashing its rows takes a second the first time."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def overrides(model_dir: Path, data_dir: Path, tmp_path: Path) -> list[str]:
    """Command-line words of a run that takes about a second."""
    return [
        "benchmark=tiny",
        f"model.id={model_dir}",
        f"data.train.path={data_dir / 'train.jsonl'}",
        f"data.questions.path={data_dir / 'questions.jsonl'}",
        f"data.test.path={data_dir / 'test.jsonl'}",
        f"benchmark.forgetting_text={data_dir / 'other.txt'}",
        "benchmark.valid_size=6",
        "batch_size=4",
        "steps=6",
        "lr=1e-2",
        "variant=lora",
        "eval.batch_size=4",
        "eval.max_new_tokens=12",
        "device=cpu",
        "threads=1",
        f"runs_dir={tmp_path / 'runs'}",
        f"cache_dir={tmp_path / 'cache'}",
    ]


@pytest.fixture
def small_job(overrides: list[str]) -> Iterator[Callable[..., Job]]:
    """small_job("seed=1", …): the job of `overrides`, changed by more of the same; later words win."""
    threads = torch.get_num_threads()

    def make(*more: str) -> Job:
        given = {word.lstrip("+~").split("=", 1)[0]: word for word in [*overrides, *more]}
        (cfg,) = compositions(list(given.values()), multirun=False)
        return job_from(cfg)

    yield make
    torch.set_num_threads(threads)


def run_id_of(job: Job) -> str:
    return plan(job).id


def science_of(job: Job, *, typed: bool = False) -> dict[str, Any]:
    return science(job, Fingerprinter().of(job), typed=typed)


def data_of(job: Job, tokenizer: Any) -> Data:
    """What a run of this job reads."""
    return load_data(job, tokenizer, Fingerprinter().of(job))
