"""Words of a command line: what Hydra cannot read is quoted, slips of the hand and Hydra's own ways are refused."""

from __future__ import annotations

import re
import subprocess

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from harness.cli.preflight import preflight
from harness.cli.words import for_hydra
from harness.config.compose import compositions, in_quotes
from harness.paths import ROOT
from tests.programs import FORM


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1))
def test_a_quoted_value_is_read_as_it_was_typed(value: str) -> None:
    """Whatever quotes and backslashes it holds."""
    assert OverridesParser.create().parse_override(f"key={in_quotes(value)}").value() == value


@pytest.mark.parametrize("value", ["it's", "a=b.jsonl", "/é/x", "/a(1)/b", "a#b", "o'ne=il", "my folder", "a\\b's"])
def test_paths_and_ids_mean_what_was_typed(value: str) -> None:
    """In a single run and in a sweep; quotes that were typed stay what they are."""
    for multirun in (False, True):
        words = for_hydra(["benchmark=tiny", f"model.id={value}", f"data.train.path={value}"])
        (cfg,) = compositions(words, multirun=multirun)
        assert (cfg.model.id, cfg.data.train.path) == (value, value)
    quoted = f"model.id={in_quotes(value)}"
    assert for_hydra([quoted]) == [quoted]


def test_what_hydra_reads_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for -m, which goes first, and the home folder, which need not be known."""
    words = ["lr=[1", "variant=lora,dora", "+x={a:1}", "~seed", "seed=range(3)", "x=${y}", "a=", "hello"]
    assert for_hydra([*words, "-m", "seed=1"]) == ["-m", *words, "seed=1"]
    monkeypatch.setenv("HOME", "/home/o'neil")
    assert for_hydra(["runs_dir=~/x", "a=b/c"]) == ["runs_dir='/home/o\\'neil/x'", "a=b/c"]


CONF = r"configs come from conf/ alone, got .*\. Put the files? there\."
SLIPS = [
    ("-m variant=lora, dora", r"variant: a value ends with a comma, got 'lora,'\. .*: variant=lora,dora\."),
    ("lr=1e-3,", r"lr: a value ends with a comma, got '1e-3,'\. No spaces between values: lr=1e-3\."),
    ("variant = lora", r"command line: spaces around =, got '='\. Write key=value\."),
    (["variant = lora"], r"command line: spaces around =, got 'variant = lora'\. Write variant=lora\."),
    (["variant=lora seed=1"], r"command line: two overrides in one word, got .*\. Leave the quotes out\."),
    ("--variant lora", r"command line: unknown option, got '--variant'\. Write variant=lora\."),
    ("--variant=lora", r"command line: unknown option, got '--variant=lora'\. Write variant=lora\."),
    ("--run -m", r"command line: --run and --multirun exclude each other, got '--run --multirun'\. Leave one out\."),
    ("--resolve", r"--resolve: only shapes what --cfg shows\. Add --cfg job, or leave it out\."),
    ("--package x", r"--package: only shapes what --cfg shows\. Add --cfg job, or leave it out\."),
    ("--config-dir /x", f"--config-dir: {CONF}"),
    ("--config-name x", f"--config-name: {CONF}"),
    ("--config-path x", f"--config-path: {CONF}"),
    ("--experimental-rerun x", f"--experimental-rerun: {CONF}"),
    ("hydra.searchpath=[file:///x]", f"hydra.searchpath: {CONF}"),
    ("hydra.mode=MULTIRUN", r"hydra.mode: cannot be set, got 'MULTIRUN'\. Use -m, or leave it out\."),
    ("-m hydra.mode=RUN", r"hydra.mode: cannot be set, got 'RUN'\. Use -m, or leave it out\."),
    ("experiment=lr_grid", r"experiment: sweeps lr_scale=0.1,.*, got 'lr_grid'\. Add -m for a sweep\."),
    ("-m experiment=quick,lr_grid", r"experiment: an experiment with a sweep of its own cannot be swept\. Give one .*"),
    ("+hydra.sweeper.params.seed=0", r"command line: Hydra cannot apply these overrides, got '.*seed=0'\."),
    ("-m seed=range(3,3)", r"seed: nothing to sweep, got 'range\(3,3\)'; expected 1 to 100,000 values\."),
    ("-m seed=range(1000000000)", r"seed: too many values, got 'range.*'; expected 1 to 100,000 values\."),
    ("-m lr=interval(1e-4,1e-3)", r"lr: an interval has no list of values, got 'interval.*'\. Give values, or .*\."),
    ("quantization=4", r"quantization: unknown option, got '4'; expected one of .*\. Did you mean 4bit\?"),
    ("-m quantization=none,8", r"quantization: unknown option, got '8'; expected one of .*\. Did you mean 8bit\?"),
    ("variant=lroa", r"variant: unknown option, got 'lroa'; expected one of .*\. Did you mean lora\?"),
    ("model=hub", r"model.id: missing; expected model.id=<value>\."),
    ("eval.limt=10", r"eval.limt: unknown key, got '10'\. Did you mean eval.limit\?"),
    ("limit=10", r"limit: unknown key, got '10'\. Did you mean eval.limit\?"),
    ("LR=1", r"LR: unknown key, got '1'\. Did you mean lr\?"),
    ("Variant=lora", r"Variant: unknown key, got 'lora'\. Did you mean variant\?"),
    ("learning_rate=1e-3", r"learning_rate: unknown key, got '1e-3'\. Did you mean lr\?"),
    ("coeff=0.5", r"coeff: unknown key, got '0.5'\. Did you mean variant.coeff\?"),
    ("variant=lora variant.coeff=0.5", r"variant.coeff: unknown key of lora, got '0.5'\. Keys: variant.alpha, .*\."),
]


@pytest.mark.parametrize(("words", "message"), SLIPS, ids=[str(w) for w, _ in SLIPS])
def test_a_slip_gets_one_helpful_line(words: str | list[str], message: str) -> None:
    words = words.split() if isinstance(words, str) else words
    with pytest.raises(SystemExit) as stopped:
        preflight(for_hydra(["benchmark=tiny", *words]))
    assert re.fullmatch(message, str(stopped.value.code)), stopped.value.code
    assert FORM.fullmatch(str(stopped.value.code))


def test_make_run_passes_its_words() -> None:
    words = ["make", "--no-print-directory", "-n", "run", "ARGS=variant=lora seed=1"]  # also inside `make test`
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("train.py variant=lora seed=1\n")


def test_the_last_of_two_values_counts_as_in_hydras_sweeper() -> None:
    """An experiment's grid gives way to the command line's."""
    words = ["benchmark=tiny", "experiment=lr_grid", "lr_scale=1,2", "seed=5", "seed=0,1"]
    found = [(c.lr_scale, c.seed) for c in compositions(words, multirun=True)]
    assert found == [(1, 0), (1, 1), (2, 0), (2, 1)]
