"""Bad input: one line in the design's form and a non-zero exit, before anything is trained or written under runs/."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

import cost_report
import eval_gsm8k
from harness.cli.preflight import preflight
from harness.config.compose import compositions
from harness.config.validate import job_from
from harness.paths import ROOT
from harness.run import run
from tests.conftest import training_rows
from tests.programs import FORM, with_words


def refusal(words: list[str]) -> str:
    """The line that train.py ends with, in-process: preflight, then the run itself. Fails where it does not refuse."""

    def program() -> None:
        preflight(words)
        for cfg in compositions(words, multirun=False):
            run(job_from(cfg))

    with pytest.raises(SystemExit) as stopped:
        program()
    line = stopped.value.code
    assert isinstance(line, str)  # a message as exit code: it is printed, and the code is 1
    return line


def snapshot(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) if folder.is_dir() else []


KEYS = [
    ("variant=nope", r"variant: unknown option, got 'nope'; expected one of antipasto, .*, vera\. Did you mean none\?"),
    ("benchmark=nope", r"benchmark: unknown option, got 'nope'; expected one of gsm8k, tiny\."),
    ("model=nope", r"model: unknown option, got 'nope'; expected one of .*tiny\."),
    ("quantization=2bit", r"quantization: unknown option, got '2bit'; expected one of 4bit, .*, none\. Did .* .bit\?"),
    ("lora_rnak=3", r"lora_rnak: unknown key, got '3'\. Did you mean lora_rank\?"),
    ("train.wramup=3", r"train.wramup: unknown key, got '3'\. Did you mean train\.warmup\?"),
    ("variant.alhpa=3", r"variant.alhpa: unknown key of lora, got '3'\. Did you mean variant\.alpha\?"),
    ("variant.lora_rank=3", r"variant.lora_rank: unknown key of lora, got '3'\. Keys: variant\.alpha, .*\."),
    ("+foo=1", r"foo: unknown key.*; expected one of alpha, .*variant\."),
    ("+train.foo=1", r"train.foo: unknown key.*; expected one of .*warmup.*\."),
    ("+variant.x=1", r"variant.x: unknown key of lora.*; expected one of alpha, .*\."),
    ("~seed", r"seed: .*"),
    ("lora_rank=abc", r"lora_rank: wrong type, got 'abc'; expected an integer\."),
    ("seed=1.5", r"seed: wrong type, got '1.5'; expected an integer\."),
    (
        "train.gradient_checkpointing=maybe",
        r"train.gradient_checkpointing: wrong type, got 'maybe'; expected true or false\.",
    ),
    ("alpha=abc", r"alpha: wrong type, got 'abc'; expected a number\."),
    ("variant.r=abc", r"variant=lora: LoRAConfig: r out of range, got 'abc'; expected an integer >= 1\."),
    ("variant.dtype=int8", r"variant=lora: LoRAConfig: unknown dtype, got 'int8'; expected one of .*\."),
    ("variant.scaling=x", r"variant=lora: LoRAConfig: unknown scaling, got 'x'; expected one of standard, rslora\."),
    ("model.dtype=int8", r"model.dtype: unknown dtype, got 'int8'; expected one of float32, .*\."),
    ("lora_rank=0", r"lora_rank: out of range, got 0; expected an integer >= 1\."),
    ("rank=-1", r"rank: out of range, got -1; expected an integer >= 1\."),
    ("rank=0", r"rank: out of range, got 0; expected an integer >= 1\."),
    ("alpha=nan", r"variant=lora: LoRAConfig: alpha out of range, got nan; expected a finite number > 0\."),
    ("lr=0", r"lr: out of range, got 0; expected a finite number > 0\."),
    ("lr=-1e-3", r"lr: out of range, got -0.001; expected a finite number > 0\."),
    ("lr=nan", r"lr: out of range, got nan; expected a finite number > 0\."),
    ("lr=inf", r"lr: out of range, got inf; expected a finite number > 0\."),
    ("lr=abc", r"lr: not a number, got 'abc'; expected .*\."),
    ("lr=true", r"lr: not a number, got True; expected a finite number > 0\."),
    ("lr_scale=inf", r"lr_scale: out of range, got inf; expected a finite number > 0\."),
    ("steps=0", r"steps: out of range, got 0; expected an integer >= 1\."),
    ("steps=-5", r"steps: out of range, got -5; expected an integer >= 1\."),
    ("batch_size=0", r"batch_size: out of range, got 0; expected an integer >= 1\."),
    ("seed=-1", r"seed: out of range, got -1; expected an integer >= 0 and <= \d+\."),
    ("seed=99999999999999999999", r"seed: out of range, got 99999999999999999999; expected .*\."),
    ("eval.limit=0", r"eval.limit: out of range, got 0; expected an integer >= 1, or null\."),
    ("train.micro_batch=0", r"train.micro_batch: out of range, got 0; expected an integer >= 1, or null\."),
    ("train.warmup=1.5", r"train.warmup: out of range, got 1.5; expected a finite number >= 0 and <= 1\."),
    ("train.clip=0", r"train.clip: out of range, got 0.0; expected a finite number > 0\."),
    ("benchmark.valid_size=1000", r"benchmark.valid_size: larger than .*, got 1000; expected < 30\."),
    ("benchmark.prompt=hello", r"benchmark.prompt: lacks the question, got 'hello'; expected exactly one \{query\}\."),
    ("benchmark.forgetting_text=nope", r"benchmark.forgetting_text: no such file, got 'nope'; expected a text file\."),
    ("model.name='../up'", r"model.name: .*, got '../up'; expected .*\."),
    ("device=tpu", r"device: unknown device, got 'tpu'; expected auto, cpu, cuda or cuda:<n>\."),
    ("lr=1e-3,1e-4", r"lr: several values, got '1e-3,1e-4'; expected one value\. Add -m for a sweep\."),
    ("seed=range(3)", r"seed: several values, got 'range\(3\)'; expected one value\. Add -m for a sweep\."),
    ("hello", r"command line: Error parsing override 'hello'\. Overrides look like key=value; see --help\."),
    ("lr=[1", r"command line: .*\. Overrides look like key=value; see --help\."),
    ("variant=null", r"command line: .*\. Overrides look like key=value; see --help\."),
    ("targets=nope", r"variant=lora: targets: no linear layer matches, got .*; expected names such as .*q_proj.*\. .*"),
    ("targets='['", r"variant=lora: targets: bad regex \(.*\), got '\['; expected a preset .*\."),
    ("variant.layers=[7]", r"variant=lora: targets: no linear layer matches, got \{.*7.*\}; expected .*\. .*"),
    ("model.id=/nope/model", r"model.id: no such folder, got '/nope/model'; expected a Hugging Face folder .*\."),
    ("model.id=models", r"model.id: no weights in this folder, got '.*models'; expected .*\."),
    ("data.train.path=/nope.jsonl", r"data.train.path: no such file, got '/nope.jsonl'; expected a JSON, .* file\."),
    ("data.questions.path=nope.jsonl", r"data.questions.path: no such file, got 'nope.jsonl'; expected .*\."),
    ("data.test.path=generated:x", r"data.test.path: unknown generated split, got 'x'; expected one of train, .*\."),
]  # fmt: skip


@pytest.mark.parametrize(("word", "message"), KEYS, ids=[w for w, _ in KEYS])
def test_bad_values_are_refused_in_one_line(overrides: list[str], tmp_path: Path, word: str, message: str) -> None:
    key = word.lstrip("+~").split("=", 1)[0]
    words = [w for w in overrides if w.split("=", 1)[0] != key]
    line = refusal([*words, word])
    assert re.fullmatch(message, line), line
    assert FORM.fullmatch(line), line
    assert snapshot(tmp_path / "runs") == []


ROW = training_rows(1)[0]
FILES = [
    ("train", b"", r"data.train: no rows, got '.*'; expected at least one row\."),
    ("train", b'{"query": "a", "resp', r".*\.jsonl:1: not JSON \(.*\), got '.*'; expected one JSON object per line\."),
    ("train", b"ROW\n{}\n", r".*\.jsonl:2: column 'query' is missing or empty, got None; expected a non-empty .*\. .*"),
    ("train", b"ROW\n[1]\n", r".*\.jsonl:2: not a row, got \[1\]; expected an object with named columns\."),
    ("train", b'{"query": "a", "response": "  "}\n', r".*:1: column 'response' is missing or empty, got '  '; .*"),
    ("train", b"ROW\n\xff\xfe\n", r"data.train.path: not UTF-8 text \(.* at byte \d+\), got '.*'\."),
    ("test", b'{"question": "1+1?"}\n', r".*:1: column 'answer' is missing .* The row has question; map .*"),
    ("test", b'{"question": "a", "answer": "#### ?"}\n', r".*:1: reference answer does not parse \(.*\)\."),
    ("questions", b'{"question": "a", "answer": "#### 1, 2"}\n', r".*:1: reference answer does not parse \(.*\)\."),
    ("questions", b'[{"question": "a", "answer": "#### 1"}, \n', r".*:2: not JSON \(.*\), got .*; expected .*\."),
]  # fmt: skip


@pytest.mark.parametrize(("split", "content", "message"), FILES, ids=[f"{s}-{c[:24]!r}" for s, c, _ in FILES])
def test_broken_data_files_are_refused_with_their_line(
    overrides: list[str], tmp_path: Path, split: str, content: bytes, message: str
) -> None:
    file = tmp_path / f"{split}.jsonl"
    file.write_bytes(content.replace(b"ROW", json.dumps(ROW).encode()))
    key = f"data.{split}.path"
    line = refusal([*(w for w in overrides if not w.startswith(key)), f"{key}={file}"])
    assert re.fullmatch(message, line), line
    assert FORM.fullmatch(line), line
    assert snapshot(tmp_path / "runs") == []


def test_a_file_that_is_no_parquet_is_refused_in_one_line(overrides: list[str], tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no\nPAR1")
    words = [w for w in overrides if not w.startswith("data.train.path")]
    line = refusal([*words, f"data.train.path={tmp_path / 'x.parquet'}"])
    assert re.fullmatch(r"data.train.path: not a parquet file \(.*\), got '.*x.parquet'\.", line), line


# -- folders ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("key", ["runs_dir", "cache_dir"])
@pytest.mark.parametrize("place", ["/proc/x", "FILE", "FILE/below"])
def test_folders_that_cannot_be_written(overrides: list[str], tmp_path: Path, key: str, place: str) -> None:
    (tmp_path / "file").write_text("")
    place = place.replace("FILE", str(tmp_path / "file"))
    line = refusal([*(w for w in overrides if not w.startswith(key)), f"{key}={place}"])
    what = r"cannot be written \(.*\)" if place == "/proc/x" else "not a folder"
    at_fault = place.removesuffix("/below")  # the file that is no folder
    expected = rf"{key}: {what}, got '{at_fault}'\. Give another: {key}=<folder>\."
    assert re.fullmatch(expected, line), line


def as_nobody(work: Any) -> str:
    """What `work()` raises in a forked child that is an ordinary user; rights mean nothing to root."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        text = "no SystemExit"
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            work()
        except SystemExit as stopped:
            text = str(stopped.code)
        finally:
            os.write(write, text.encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


@pytest.mark.parametrize(("mode", "below"), [(0o555, "runs"), (0o000, "a/runs"), (0o555, ".")])
def test_runs_dir_of_somebody_else(small_job: Any, mode: int, below: str) -> None:
    """As an ordinary user: a folder that may be read, one that may not even be entered, and one that is there."""
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders let nobody but their user in
        os.chmod(place, 0o755)
        closed = Path(place) / "closed"
        closed.mkdir()
        job = small_job(f"runs_dir={closed / below}")
        closed.chmod(mode)
        line = as_nobody(lambda: run(job))
        closed.chmod(0o755)
        folder = re.escape(str(closed / below))
        expected = rf"runs_dir: cannot be written \(Permission denied\), got '{folder}'\. Give another: .*"
        assert re.fullmatch(expected, line), line
        assert snapshot(closed) == []


# -- sweeps -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=0,1", "lr=1e-3,0"], r"lr: out of range, got 0; expected .*"),
        (["variant=lora,nope"], r"variant: unknown option, got 'nope'; .*"),
        (["variant=lora,full", "variant.foo=1"], r"variant.foo: unknown key of lora, got '1'\. .*"),
        (["variant=lora,ia3", "variant.alpha=3"], r"variant.alpha: unknown key of ia3, got '3'\. .*"),
        (["variant=lora,ia3", "rank=4,-4"], r"rank: out of range, got -4; .*"),
        (["steps=1,x"], r"steps: wrong type, got 'x'; expected an integer\."),
        (["variant=lora,full", "quantization=none,4bit"], r"quantization: full cannot train a quantized base, .*"),
        (["data.test.path=/nope.jsonl,/nowhere"], r"data.test.path: no such file, got '/nope.jsonl'; expected .*"),
    ],
)
def test_a_sweep_is_refused_before_its_first_job(
    overrides: list[str], tmp_path: Path, words: list[str], message: str
) -> None:
    keys = [w.split("=")[0] for w in words]
    base = [w for w in overrides if w.split("=", 1)[0] not in keys]
    with pytest.raises(SystemExit) as stopped:
        preflight(["-m", *base, *words])
    assert re.fullmatch(message, str(stopped.value.code)), stopped.value.code
    assert snapshot(tmp_path) == []


# -- the programs -----------------------------------------------------------------------------------------------------
def program(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "words",
    [
        ["train.py", "benchmark=tiny", "data.train.path=/nope"],
        ["train.py", "-m", "benchmark=tiny", "variant=lora,nope"],
        ["eval_gsm8k.py", "run=nope"],
    ],
    ids=" ".join,
)
def test_programs_end_with_one_line_and_a_code(words: list[str], tmp_path: Path) -> None:
    """Nothing but that line, no traceback, and nothing new under runs/."""
    done = program(*words, f"runs_dir={tmp_path / 'runs'}")
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert len(lines) == 1, done.stderr
    assert FORM.fullmatch(lines[0]), lines[0]
    assert snapshot(tmp_path) == []


def test_a_run_needs_no_locale_no_home_and_no_writable_working_folder(
    overrides: list[str], tmp_path: Path, model_dir: Path
) -> None:
    """ASCII everywhere, umask 077, typed in /proc: it runs, and prints \\xfc for what ASCII lacks."""
    (tmp_path / "mödel").symlink_to(model_dir)
    words = with_words(overrides, f"model.id={tmp_path / 'mödel'}", f"runs_dir={tmp_path / 'rüns'}")
    plain = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words],
        cwd="/proc",
        env=plain | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"},
        umask=0o077,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert rb"r\xfcns/tiny-tiny__lora" in done.stdout
    (folder,) = (tmp_path / "rüns").iterdir()
    assert str(tmp_path / "mödel") in (folder / "config.yaml").read_text(encoding="utf-8")
    assert (folder / "result.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("key", ["runs_dir", "cache_dir"])
def test_a_link_to_a_folder_that_is_gone(overrides: list[str], tmp_path: Path, key: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "purged")
    line = refusal([*(w for w in overrides if not w.startswith(key)), f"{key}={tmp_path / 'link' / 'x'}"])
    assert line.startswith(f"{key}: a link to a folder that is gone ({tmp_path / 'purged'}), got '")


@pytest.mark.parametrize(
    ("main", "words", "message"),
    [
        (eval_gsm8k.main, [], r"run: missing; expected run=<value>\. See --help\."),
        (eval_gsm8k.main, ["run="], r"run: missing; expected run=<value>\. See --help\."),
        (eval_gsm8k.main, ["runs=x"], r"runs: unknown argument, got 'runs=x'; expected one of run=, .*"),
        (
            eval_gsm8k.main,
            ["run=x", "limit=many"],
            r"limit: wrong type, got 'many'; expected an integer\. .*",
        ),
        (eval_gsm8k.main, ["run=x", "limit={x"], r"limit: wrong type, got '\{x'; expected an integer\. See --help\."),
        (eval_gsm8k.main, ["run=x", "columns=a:b"], r"columns: nothing to read, got 'a:b'\. They are those of .*\."),
        (eval_gsm8k.main, ["run=x", "runs_dir=/nosuch"], r"runs_dir: no such folder, got '/nosuch'\."),
        (eval_gsm8k.main, ["--run", "x"], r"--run: unknown argument, got '--run'; .* Did you mean run=…\?"),
        (
            cost_report.main,
            ["runs_dir=/nosuch"],
            r"runs_dir: no such folder, got '/nosuch'; expected a folder of runs\.",
        ),
        (
            cost_report.main,
            ["publish=x", "check=true"],
            r"check: changes nothing, publish does\. Publish first, then run check=true alone\.",
        ),
        (eval_gsm8k.main, ["run={x"], r"run: no finished run of this id in \S+runs, got '\{x'\. .*"),
        (cost_report.main, ["check=maybe"], r"check: wrong type, got 'maybe'; expected true or false\. See --help\."),
        (
            cost_report.main,
            ["publish=nope"],
            r"publish=nope: no finished run of this id; expected a folder with result\.json in runs_dir\.",
        ),
    ],
)
def test_other_programs_check_their_words(main: Any, words: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert re.fullmatch(message, str(stopped.value.code)), stopped.value.code
