"""Models and data from the Hugging Face hub, through its own client, from a hub on 127.0.0.1: tests/fake_hub.py.

The client reads its environment at import, so programs run in processes of their own.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch

from harness.cli.words import for_hydra
from harness.config.compose import compositions
from harness.config.job import Job
from harness.config.validate import job_from
from harness.errors import BadInput
from harness.inputs.fingerprints import Fingerprinter, model_fingerprint
from harness.paths import ROOT
from harness.records.ids import run_id
from harness.records.plan import plan
from tests.conftest import make_model, query_of, run_id_of, science_of, training_rows, write_jsonl
from tests.fake_hub import FakeHub
from tests.programs import FORM

QWEN, MATH, GSM = "Qwen/Qwen3-0.6B-Base", "meta-math/MetaMathQA", "openai/gsm8k"
CARD = """---
configs:
- config_name: main
  data_files: [{split: train, path: main/train-*}, {split: test, path: main/test-*}]
- config_name: socratic
  data_files: [{split: train, path: socratic/train-*}, {split: test, path: socratic/test-*}]
---
"""
SMALL = [
    "benchmark=gsm8k",
    *("variant=lora", "rank=4", "steps=3", "batch_size=2", "benchmark.valid_size=6"),
    *("eval.batch_size=4", "eval.max_new_tokens=4", "eval.limit=4", "device=cpu", "threads=1", "model.dtype=float32"),
]
PROGRAM = """
import json, sys
from harness.cli.preflight import preflight
from harness.config.compose import compositions
from harness.run import run
from harness.config.schema import register
from harness.config.validate import job_from
register()
for words in json.load(sys.stdin):
    try:
        preflight(words)
        for cfg in compositions(words, multirun=False):
            run(job_from(cfg))
        line = "finished"
    except SystemExit as stopped:
        line = stopped.code
    print("LINE" + json.dumps(line), flush=True)
"""  # many command lines in one process, since importing torch takes seconds


def table(rows: list[dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=None if rows else EMPTY), path)


EMPTY = pyarrow.schema([("question", pyarrow.string()), ("answer", pyarrow.string())])
ASKED = [{"question": query_of(k), "answer": f"{k}+{k % 7}\n#### {k + k % 7}"} for k in range(40)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    """Contents of the hub's repositories: laid out as the real ones, and in the ways that go wrong."""
    top = tmp_path_factory.mktemp("repositories")
    (top / "math").mkdir()
    (top / "math" / "MetaMathQA-395K.json").write_text(json.dumps(training_rows(60)))  # one array, as the real file
    (top / "math" / "README.md").write_text("---\nlicense: mit\n---\n")
    for subset in ("main", "socratic"):
        table(ASKED[:30], top / "gsm" / subset / "train-00000-of-00001.parquet")
        table(ASKED[30:], top / "gsm" / subset / "test-00000-of-00001.parquet")
    (top / "gsm" / "README.md").write_text(CARD)
    table([], top / "norows" / "train.parquet")
    (top / "emptysplit").mkdir()
    (top / "emptysplit" / "train.json").write_text("[]")
    shutil.copytree(top / "emptysplit", top / "emptyfile")
    (top / "emptyfile" / "test.json").write_text(json.dumps(ASKED[:3]))
    (top / "code").mkdir()
    (top / "code" / "code.py").write_text("raise SystemExit('code of a repository was run')")
    (top / "broken").mkdir()
    (top / "broken" / "train.json").write_text('{"query": ')
    for name in ("notokenizer", "pickle", "ownmodel", "half", "moved"):
        shutil.copytree(model_dir, top / name)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (top / "notokenizer" / file).unlink()
    (top / "pickle" / "model.safetensors").unlink()
    torch.save({}, top / "pickle" / "pytorch_model.bin")
    config = json.loads((top / "ownmodel" / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (top / "ownmodel" / "config.json").write_text(json.dumps(config))
    (top / "ownmodel" / "own.py").write_text("raise SystemExit('code of a repository was run')")
    (top / "half" / "model.safetensors").write_bytes(b"\x08")
    make_model(258, hidden_size=48).save_pretrained(top / "moved")
    (top / "gguf").mkdir()
    (top / "gguf" / "a.gguf").write_bytes(b"GGUFno")
    return top


@pytest.fixture
def fake(folders: Path) -> Iterator[FakeHub]:
    with FakeHub() as it:
        it.put("dataset", MATH, folders / "math")
        it.put("dataset", GSM, folders / "gsm")
        for name in ("norows", "emptysplit", "emptyfile", "code", "broken"):
            it.put("dataset", f"org/{name}", folders / name)
        it.put("dataset", "org/gated", folders / "gsm", gated=True)
        for name in ("notokenizer", "pickle", "ownmodel", "half", "gguf"):
            it.put("model", f"org/{name}", folders / name)
        yield it


@pytest.fixture
def commits(fake: FakeHub, model_dir: Path) -> dict[str, str]:
    """The base model is there too; by place in the config, what `main` is of everything that a run reads."""
    fake.put("model", "meta-llama/Llama-3.2-3B", model_dir, gated=True)
    gsm = fake.repos["dataset", GSM].refs["main"]
    found = {"model": fake.put("model", QWEN, model_dir), "data.train": fake.repos["dataset", MATH].refs["main"]}
    return found | {"data.questions": gsm, "data.test": gsm}


def folders_of(tmp_path: Path) -> list[str]:
    return [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}"]


def lines(environment: dict[str, str], commands: list[list[str]]) -> list[str]:
    """What each command line ends with, one after the other in one process."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=environment,
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line[4:]) for line in done.stdout.splitlines() if line.startswith("LINE")]


def program(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


def only_record(tmp_path: Path) -> dict[str, Any]:
    (file,) = (tmp_path / "runs").glob("*/result.json")
    record: dict[str, Any] = json.loads(file.read_text())
    return record


def asked_of(fake: FakeHub) -> list[str]:
    """Requests for repositories; the client also looks for news about itself."""
    return [r for r in fake.requests if "agent-harnesses" not in r]


# -- it works ---------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_run_from_the_hub_and_again_offline(fake: FakeHub, commits: dict[str, str], tmp_path: Path) -> None:
    """As it would be typed. Offline, with the hub gone: the same losses and answers from the cache; skipped; again."""
    words = ["train.py", *SMALL, *folders_of(tmp_path)]
    online = program(fake.environment(tmp_path / "home"), *words)
    assert online.returncode == 0, online.stderr
    first = only_record(tmp_path)
    assert first["status"] == "done"
    assert first["train"]["loss_last"] != first["train"]["loss_first"]
    assert first["data"]["train_rows"] == 60
    assert first["provenance"]["hub_commits"] == commits
    assert first["science"]["model"] == f"hub:{QWEN}@{commits['model']}"
    assert f"@{commits['data.train']} " in first["science"]["data.train"]
    assert first["run_id"].startswith("gsm8k-qwen3_0_6b_base__lora__r4__lr0.0001__none__s3__seed0")
    adapter = tmp_path / "runs" / first["run_id"] / "adapter.safetensors"
    assert QWEN.encode() in adapter.read_bytes()[:100_000]  # named by its id, not by a folder of this machine
    assert str(tmp_path).encode() not in adapter.read_bytes()

    fake.stop()
    offline = fake.environment(tmp_path / "home", HF_HUB_OFFLINE="1")
    skipped = program(offline, *words)
    assert (skipped.returncode, skipped.stderr) == (0, "")
    assert "finished already, skipped" in skipped.stdout
    again = program(offline, *words, "force=true")
    assert again.returncode == 0, again.stderr
    second = only_record(tmp_path)
    assert second["science"] == first["science"]
    assert second["test"] == first["test"]
    for key in ("loss_first", "loss_last", "tokens"):
        assert second["train"][key] == first["train"][key]
    evaluated = program(offline, "eval_gsm8k.py", f"run={first['run_id']}", f"runs_dir={tmp_path / 'runs'}")
    assert "the same questions are right" in evaluated.stdout, evaluated.stderr


@pytest.mark.slow
def test_a_moved_main_is_never_answered_with_an_old_number(
    fake: FakeHub, commits: dict[str, str], folders: Path, tmp_path: Path
) -> None:
    """Each repository in turn; the finished run is refused by name, and its own evaluation stays at its commits."""
    home, words = tmp_path / "home", [*SMALL, *folders_of(tmp_path)]
    hubs = [f"model.id={QWEN}", "model=hub", "data=gsm8k_train"]
    assert lines(fake.environment(home), [words, [*words, *hubs]]) == ["finished"] * 2
    run_id = next(p.name for p in (tmp_path / "runs").iterdir() if p.name.startswith("gsm8k-qwen"))

    fake.put("model", QWEN, folders / "moved")
    pinned = [*words, f"model.revision={commits['model']}"]
    moved = lines(fake.environment(home), [words, [*words, *hubs], pinned, pinned])
    assert re.fullmatch(r"gsm8k-qwen.*: finished already, but not with the same model\. force=true .*", moved[0])
    assert re.fullmatch(r"gsm8k-hub.*: finished already, but not with the same model\. force=true .*", moved[1])
    assert moved[2:] == ["finished"] * 2
    assert len(list((tmp_path / "runs").iterdir())) == 3  # a commit as typed has an id of its own, and is skipped
    evaluated = program(fake.environment(home), "eval_gsm8k.py", f"run={run_id}", f"runs_dir={tmp_path / 'runs'}")
    assert "the same questions are right" in evaluated.stdout, evaluated.stderr

    kept = fake.repos["model", QWEN]
    kept.refs["main"] = commits["model"]
    write_jsonl(folders / "math" / "more.jsonl", training_rows(4, seed=1))
    fake.put("dataset", MATH, folders / "math")
    (data,) = lines(fake.environment(home), [words])
    assert re.fullmatch(r"gsm8k-qwen.*: finished already, but not with the same data\.train\. force=true .*", data)


def test_an_id_asks_nobody_and_tells_typed_revisions_apart(monkeypatch: Any, tmp_path: Path) -> None:
    def job(*words: str) -> Job:
        (cfg,) = compositions(["benchmark=gsm8k", *words, *folders_of(tmp_path)], multirun=False)
        return job_from(cfg)

    def ids(*words: str) -> str:
        fingerprinter, asked = Fingerprinter(), job(*words)
        return run_id(asked, fingerprinter.of(asked), fingerprinter)

    def never(*_: Any) -> str:
        raise AssertionError("asked the hub")

    for module in ("hub", "fingerprints", "model_files"):
        monkeypatch.setattr(f"harness.inputs.{module}.commit_of", never)
    assert ids() == "gsm8k-qwen3_0_6b_base__antipasto_dplr__r256__k8__lr0.005__none__s5000__seed0"
    commit = "0" * 40
    quantized = [f"model.gguf_file={n}.gguf" for n in "ab"]  # two models of one repository
    others = {ids(w) for w in ("model.revision=v1", f"model.revision={commit}", "data.test.revision=v1", *quantized)}
    assert len(others | {ids()}) == 6
    with pytest.raises(AssertionError, match="asked the hub"):  # what a plan needs, an id does not
        science_of(job())


# -- it does not ------------------------------------------------------------------------------------------------------
REFUSED = [
    ("model=llama3_2_3b", r"model\.id: this model is gated, got 'meta-llama/Llama-3\.2-3B'\. Accept its licence at "
     r"http\S+/meta-llama/Llama-3\.2-3B and log in \(hf auth login\), or give model\.id=<folder>\."),
    ("model.id=org/nope", r"model\.id: no such model on the hub, got 'org/nope'\. Check the name, log in for a private "
     r"one \(hf auth login\), or give model\.id=<folder>\."),
    ("model.id='not an id'",
     r"model\.id: neither a hub id nor a path .*, got 'not an id'\. Give model\.id=<folder> .*"),
    ("model.id=./nope", r"model\.id: no such folder, got './nope'; expected a Hugging Face folder or a hub id\."),
    ("model.revision=nope",
     r"model\.revision: no such revision, got 'nope'; expected a branch, tag or commit of Qwen.*"),
    (f"model.revision={'0' * 40}", r"model\.revision: no such revision, got '0+'; expected a branch, .* of Qwen/.*"),
    ("model.id=org/notokenizer", r"model\.id: no tokenizer beside the weights, got 'org/notokenizer'; expected .*"),
    ("model.id=org/pickle",
     r"model\.id: only pickled weights \(pytorch_model\.bin\), .*, got 'org/pickle'; expected .*"),
    ("model.id=org/ownmodel", r"model\.id: it needs code of its own, which is never run, got 'org/ownmodel'; .*"),
    ("model.id=org/half", r"model\.id: cannot load \(.*\), got 'org/half'\. Give another .*"),
    ("model.id=org/gguf", r"model\.id: only GGUF weights, got 'org/gguf'; expected model\.gguf_file=a\.gguf\."),
    ("model.id=org/gguf model.gguf_file=b.gguf",
     r"model\.gguf_file: no such file in org/gguf, got 'b\.gguf'; .* a\.gguf\."),
    ("model.id=org/gguf model.gguf_file=a.gguf", r"model\.id: cannot load \(.*\), got 'org/gguf'\. Give another .*"),
    ("model.gguf_file=x.gguf", r"model\.gguf_file: no such file in Qwen/.*, got 'x\.gguf'; .* it has no GGUF file\."),
    ("data.train.hub=org/gated", r"data\.train\.hub: this data set is gated, got 'org/gated'\. Accept its licence at "
     r"http\S+/datasets/org/gated and log in \(hf auth login\), or give data\.train\.path=<file>\."),
    ("data.train.hub=org/nope", r"data\.train\.hub: no such data set on the hub, got 'org/nope'\. .*path=<file>\."),
    ("data.train.hub=a/b/c.json",
     r"data\.train\.hub: neither a hub id nor .*, got 'a/b/c\.json'\. Give data\.train\.path.*"),
    ("data.train.hub=null", r"data\.train: no path and no hub id\. Set data\.train\.path=<file>\."),
    ("data.test.revision=v9", r"data\.test\.revision: no such revision, got 'v9'; expected .* of openai/gsm8k\. .*"),
    ("data.test.subset=nope",
     r"data\.test\.subset: no such subset of openai/gsm8k, got 'nope'; expected one of main, socratic\."),
    ("data.test.subset=null",
     r"data\.test\.subset: openai/gsm8k has several, got None; expected one of main, socratic\."),
    ("data.test.split=valid",
     r"data\.test\.split: no such split in openai/gsm8k, got 'valid'; expected one of train, test\."),
    ("data.test.split='test[x]'", r"data\.test\.split: .*, got 'test\[x\]'\."),
    ("data.train.columns.query=q",
     r"data\.train\.columns\.query: no such column in meta-math/MetaMathQA, got 'q'; expected "
     r"one of type, query, original_question, response\. Map it with data\.train\.columns\.query=<name>\."),
    ("data.train.hub=openai/gsm8k data.train.subset=main",
     r"data\.train\.columns\.query: no such column in openai/gsm8k, .*"),
    ("data.test.hub=org/emptysplit data.test.subset=null data.test.split=train",
     r"data\.test\.split: this split of org/emptysplit is empty, got 'train'\."),
    ("data.test.hub=org/norows data.test.subset=null",
     r"data\.test\.hub: cannot be read \(.*\), got 'org/norows'\. Give a file: .*"),
    ("data.test.hub=org/emptyfile data.test.subset=null",
     r"data\.test\.hub: cannot be read \(.*\), got 'org/emptyfile'\. Give a file: .*"),
    ("data.train.hub=org/broken",
     r"data\.train\.hub: cannot be read \(.*JSON parse error.*\), got 'org/broken'\. Give a .*"),
    ("data.train.hub=org/code",
     r"data\.train\.hub: cannot be read \(it has no files with rows; code .* never run\), .*"),
]  # fmt: skip


def with_words(base: list[str], more: str) -> list[str]:
    """Later words win; an id of one's own needs model=hub."""
    extra = more.split(" ") if "'" not in more else [more]
    extra += ["model=hub"] * (more.startswith("model.id="))
    return list({w.split("=", 1)[0]: w for w in [*base, *extra]}.values())


@pytest.mark.slow
def test_what_cannot_be_had_is_refused_in_one_line(fake: FakeHub, commits: dict[str, str], tmp_path: Path) -> None:
    """Before anything is trained or written under runs/, and without running what a repository brings along."""
    base = [*SMALL, *folders_of(tmp_path)]
    found = lines(fake.environment(tmp_path / "home"), [with_words(base, words) for words, _ in REFUSED])
    wrong = [
        (w, f) for (w, m), f in zip(REFUSED, found, strict=True) if not re.fullmatch(m, f) or not FORM.fullmatch(f)
    ]
    assert wrong == []
    assert not list((tmp_path / "runs").glob("*/result.json"))


PLACES = [
    ("", r"model\.id: WHY, got 'Qwen/Qwen3-0\.6B-Base'\. .*, or give model\.id=<folder>\."),
    ("model=llama3_2_3b", r"model\.id: WHY, got 'meta-llama/Llama-3\.2-3B'\. .*"),
    ("model.id=org/x", r"model\.id: WHY, got 'org/x'\. .*"),
    (f"model.revision={'0' * 40} model=tiny model.id=MODEL",
     r"data\.\w+\.hub: WHY, .*, or give data\.\w+\.path=<file>\."),
    ("model=tiny model.id=MODEL data=gsm8k_train", r"data\.\w+\.hub: WHY, got 'openai/gsm8k'\. .*"),
    ("model=tiny data=tiny steps=1 benchmark=tiny", "finished"),  # needs no hub
]  # fmt: skip


@pytest.mark.parametrize("way", ["closed", "offline", "login"])
def test_without_hub_or_cache(
    fake: FakeHub, commits: dict[str, str], way: str, model_dir: Path, tmp_path: Path
) -> None:
    """Nobody listens, HF_HUB_OFFLINE with an empty cache, an old token: a line each, unless no hub is needed."""
    why = r"HF_HUB_OFFLINE is set, and main is not in the cache"
    environment = fake.environment(tmp_path / "home", HF_HUB_OFFLINE="1")
    if way == "closed":
        why = r"cannot reach http\S+ \(.*refused.*\), and it is not in the cache"
        environment = fake.environment(tmp_path / "home")
        fake.stop()
    if way == "login":
        why = r"http\S+ answers 401"
        environment = fake.environment(tmp_path / "home", HF_TOKEN="wrong")
    base = [*SMALL, *folders_of(tmp_path)]
    commands = [with_words(base, words.replace("MODEL", str(model_dir)).strip() or "seed=0") for words, _ in PLACES]
    found = lines(environment, commands)
    wrong = [(w, f) for (w, m), f in zip(PLACES, found, strict=True) if not re.fullmatch(m.replace("WHY", why), f)]
    assert wrong == []
    assert (asked_of(fake) == []) == (way != "login")


@pytest.mark.slow
def test_unreachable_is_asked_once_and_answered_from_the_cache(
    fake: FakeHub, commits: dict[str, str], tmp_path: Path
) -> None:
    """Not offline, but the hub is gone: what was fetched before is used, said in a warning that names the commit."""
    words = ["train.py", *SMALL, *folders_of(tmp_path)]
    assert lines(fake.environment(tmp_path / "home"), [words[1:]]) == ["finished"]
    fake.stop()
    done = program(fake.environment(tmp_path / "home"), *words, "seed=1")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "cannot reach the hub" in line]
    assert [re.sub(r".* main of (\S+) is cached as (\w+)", r"\1 \2", s) for s in said] == [
        f"{QWEN} {commits['model']}",
        f"{GSM} {commits['data.test']}",
        f"{MATH} {commits['data.train']}",
    ]


# -- from disk --------------------------------------------------------------------------------------------------------
def test_folders_that_are_no_model(small_job: Any, folders: Path, monkeypatch: Any) -> None:
    from harness.inputs.base_model import load_model, load_tokenizer

    def refusal(*words: str) -> str:
        def load() -> None:
            job = small_job(*words)
            plan(job)
            load_tokenizer(job.model)
            load_model(job)

        with pytest.raises(BadInput) as stopped:
            load()
        return str(stopped.value.code)

    there = {n: f"model.id={folders / n}" for n in ("notokenizer", "pickle", "ownmodel", "half", "gguf", "math")}
    assert refusal(there["notokenizer"]).startswith("model.id: no tokenizer beside the weights, got ")
    assert refusal(there["pickle"]).startswith("model.id: only pickled weights (pytorch_model.bin), which may run code")
    assert refusal(there["ownmodel"]).startswith("model.id: it needs code of its own, which is never run, got ")
    assert refusal(there["half"]).startswith("model.id: cannot load (")
    assert "; expected model.gguf_file=a.gguf." in refusal(there["gguf"])
    assert refusal(there["gguf"], "model.gguf_file=b.gguf").endswith(", got 'b.gguf'; expected one of a.gguf.")
    assert refusal(there["gguf"], "model.gguf_file=a.gguf").startswith("model.id: cannot load (")
    line = refusal("model=smollm2_135m", "model.id=.cache/nope")
    assert line.startswith("model.id: no such folder, got '.cache/nope'; expected a Hugging Face folder or a hub id.")
    assert line.endswith(" Run make smollm2 first.")
    assert refusal(there["math"]).startswith("model.id: no weights in this folder, got ")
    monkeypatch.setitem(sys.modules, "gguf", None)
    line = refusal(there["gguf"], "model.gguf_file=a.gguf")
    assert line.startswith("model.gguf_file: reading it needs the package gguf, got 'a.gguf'. Install it (pip install ")


def test_home_and_relative_places(small_job: Any, model_dir: Path, data_dir: Path, monkeypatch: Any) -> None:
    """~, the working directory and the repository root: the same contents, hence the same run."""
    expected = run_id_of(small_job())
    monkeypatch.setenv("HOME", str(data_dir.parent))
    assert for_hydra(["model.id=~/x", "runs_dir=~", "a=~b", "~seed", "a=b~/c"]) == [
        f"model.id={data_dir.parent}/x",
        f"runs_dir={data_dir.parent}",
        "a='~b'",  # Hydra's grammar has no ~ in a value
        "~seed",
        "a='b~/c'",
    ]
    words = [f"data.{s}.path=~/{data_dir.name}/{s}.jsonl" for s in ("train", "questions", "test")]
    words.append(f"model.id=~/{model_dir.relative_to(data_dir.parent)}")
    assert run_id_of(small_job(*for_hydra(words))) == expected
    monkeypatch.chdir(data_dir.parent)
    assert run_id_of(small_job(*[w.replace("~/", "") for w in words])) == expected
    tiny = [small_job("model.id=models/tiny").model, small_job(f"model.id={ROOT}/models/tiny").model]
    assert len({model_fingerprint(spec) for spec in tiny}) == 1


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.parquet"])
def test_an_empty_table_is_refused(small_job: Any, tmp_path: Path, name: str) -> None:
    from harness.inputs.rows import read_questions

    file = tmp_path / name
    if name.endswith("parquet"):
        table([], file)
    else:
        file.write_text("[]" if name.endswith("json") else "")
    job = small_job(f"data.test.path={file}")
    with pytest.raises(BadInput, match=r"^data.test: no rows, got '.*'; expected at least one row\.$"):
        read_questions(job.test_source, "data.test")
