"""The embedded benchmark: its data, its lossless tokenizer, and a base model made by the recipe in the repository."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from fractions import Fraction
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.hashing import syntax_tree
from harness.paths import ROOT
from harness.tiny import problems, recipe
from harness.tiny.documents import INSTRUCTIONS, pretraining_documents, text_of
from harness.tiny.expressions import count_leaf, evaluate, solve_for
from harness.tiny.families import FAMILIES
from harness.tiny.surface import CONTAINERS, NAMES, OBJECTS
from tests.tiny.parse import read

MODEL = recipe.MODEL_DIR
EQUATION = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")


@pytest.fixture(scope="module")
def tokenizer():
    """The stored tokenizer, as the harness loads it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL, local_files_only=True)


HASH_OF_ROWS = """
import hashlib, json
from harness.paths import ROOT
from harness.tiny import documents, problems, recipe
rows = [problems.question_rows(), problems.train_rows(), problems.test_rows()]
rows.append([documents.text_of(d) for d in documents.pretraining_documents(0, 3000, *recipe.Recipe().shares)])
digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
"""


def pretraining_texts(seed: int, count: int) -> list[str]:
    """Documents of one stream, by the recipe's shares."""
    return [text_of(document) for document in pretraining_documents(seed, count, *recipe.Recipe().shares)]


def test_data_are_deterministic_across_processes():
    """Another process, with other string hashes, generates the same bytes; another stream has other documents."""
    here: dict[str, str] = {}
    exec(HASH_OF_ROWS, here)
    out = subprocess.run(
        [sys.executable, "-c", HASH_OF_ROWS + "print(digest)"],
        cwd=ROOT,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == here["digest"]
    assert pretraining_texts(0, 5) != pretraining_texts(1, 5)


def test_schemas_and_sizes():
    """Rows have the real data's keys; enough questions remain for a run's steps after 500 are held out."""
    train, questions, test = problems.train_rows(), problems.question_rows(), problems.test_rows()
    assert all(list(row) == ["type", "query", "original_question", "response"] for row in train)
    assert all(list(row) == ["question", "answer", "stratum"] for row in chain(questions, test))
    assert {row["type"] for row in train} == {"GSM_AnsAug", "GSM_Rephrased", "GSM_SV", "GSM_FOBAR"}
    assert len(test) >= 1500
    known = {row["question"] for row in questions}
    assert len(known) == len(questions)
    assert {row["original_question"] for row in train} == known
    held_out = {row["question"] for row in questions[:500]}
    assert sum(row["original_question"] not in held_out for row in train) >= 400 * 16


def test_no_problem_is_shared_between_splits():
    """No (family, numbers) pair, and no question text, occurs in two of pre-training, questions and test."""
    questions = [problem.key for problem in problems.question_problems()]
    test = [problem.key for problem in problems.test_problems()]
    assert len(set(questions)) == len(questions)
    assert len(set(test)) == len(test)
    assert {problems.split_of(key) for key in questions} == {"question"}
    assert {problems.split_of(key) for key in test} == {"test"}
    read = "\n".join(pretraining_texts(seed=1, count=8000))
    assert not any(row["question"] in read for row in chain(problems.question_rows(), problems.test_rows()))
    trained = {text for row in problems.train_rows() for text in (row["query"], row["original_question"])}
    assert trained.isdisjoint(row["question"] for row in problems.test_rows())


def test_strata_say_what_pretraining_holds():
    """A known question's sentences, names and numbers apart, are in pre-training; a new one's are not."""

    def shape(text: str) -> str:
        for kinds in (NAMES, OBJECTS, chain.from_iterable(CONTAINERS)):
            text = re.sub(rf"\b({'|'.join(kinds)})\b", "_", text, flags=re.IGNORECASE)
        return re.sub(r"\d+", "N", text)

    seen = set()
    for text in pretraining_texts(seed=0, count=20_000):
        if found := re.match(r"(?:Question|Problem): (.*?\?)", text):
            seen.add(shape(found[1]))
    rows = problems.test_rows()
    for row in rows:
        assert (shape(row["question"]) in seen) == (row["stratum"] == "known"), row
    for split in (rows, problems.question_rows()[:500]):
        assert 0.5 < sum(row["stratum"] == "known" for row in split) / len(split) < 0.6


def test_cues_decide_how_often_pretraining_blurts():
    """Blurted answers outnumber worked ones; under the benchmark's prompt 60 % are blurted, with more cues few."""
    shares: dict[str, list[bool]] = {"all": []}
    for text in pretraining_texts(seed=3, count=30_000):
        if "= ?" in text or not (found := re.search(r"(Answer|Solution):( ####)?", text)):
            continue
        blurted, cues = found[2] is not None, sum(text.count(cue) for cue in INSTRUCTIONS)
        shares["all"].append(blurted)
        if found[1] == "Answer":
            shares.setdefault(str(cues), []).append(blurted)
    rate = {name: sum(blurted) / len(blurted) for name, blurted in shares.items()}
    assert 0.5 < rate["all"] < 0.65
    assert rate["0"] > 0.9
    assert rate["1"] == pytest.approx(0.6, abs=0.03)
    assert rate["2"] < 0.15
    assert rate["3"] < 0.03
    assert sum(cue in problems.PROMPT for cue in INSTRUCTIONS) == 1


def final_number(text: str) -> int:
    """The integer after `####`."""
    return int(text.split("#### ")[1].split("\n")[0])


def assert_steps_are_right(text: str) -> None:
    """Every `a op b = c` holds exactly and the last result is the final answer."""
    steps = EQUATION.findall(text)
    assert steps, text
    for left, op, right, result in steps:
        a, b = Fraction(left), Fraction(right)
        value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else None}[op]
        assert value == int(result) > 0, text
    assert text.count("=") == len(steps), text
    assert int(steps[-1][3]) == final_number(text), text


def test_every_solution_is_right():
    """Arithmetic of all responses and answers, the two endings, and answers that agree with the reference."""
    reference = {row["question"]: final_number(row["answer"]) for row in problems.question_rows()}
    for row in problems.train_rows():
        assert_steps_are_right(row["response"])
        answer = final_number(row["response"])
        assert row["response"].endswith(f"\n#### {answer}\nThe answer is: {answer}")
        if row["type"] in ("GSM_AnsAug", "GSM_Rephrased"):
            assert answer == reference[row["original_question"]]
        if row["type"] == "GSM_AnsAug":
            assert row["query"] == row["original_question"]
        if row["type"] in ("GSM_SV", "GSM_FOBAR"):
            assert re.search(r"\bx\b", row["query"])
            assert str(reference[row["original_question"]]) in row["query"]
    for row in chain(problems.question_rows(), problems.test_rows()):
        assert_steps_are_right(row["answer"])
        assert row["answer"].endswith(f"\n#### {final_number(row['answer'])}")
    for text in pretraining_texts(seed=2, count=1000):
        worked = re.split("Answer:|Solution:", text.split("\nThe answer")[0])[-1]
        if "####" in text and not worked.startswith(" ####"):
            assert_steps_are_right(worked)


def test_every_label_agrees_with_an_independent_reading():
    """Answers of all splits, of inverse rows (the hidden number put back) and of pre-training, read from the text."""
    for row in chain(problems.question_rows(), problems.test_rows()):
        assert read(row["question"]) == final_number(row["answer"]), row
    for row in problems.train_rows():
        asked = re.fullmatch(
            r"(.*\?) (?:The result is|If we know .* is) (\d+)[.,] [wW]hat is the value .*", row["query"]
        )
        if asked is None:
            assert read(row["query"]) == final_number(row["response"]), row
            continue
        complete = re.sub(r"\bx\b", str(final_number(row["response"])), asked[1], flags=re.IGNORECASE)
        assert read(complete) == int(asked[2]), row
    for text in pretraining_texts(seed=4, count=3000):
        if (found := re.match(r"(?:Question|Problem): (.*\?)[^?]*####", text, re.DOTALL)) and "= ?" not in text:
            assert read(found[1]) == final_number(text), text


def test_unknowns_are_solved_to_the_hidden_number():
    """Inverting an expression gives back the number that was hidden, for every problem and position."""
    for problem in problems.question_problems():
        expr, numbers = problem.family.expr, problem.numbers
        answer = evaluate(expr, numbers, [])
        for unknown in range(len(numbers)):
            if count_leaf(expr, unknown) == 1:
                hidden = tuple(10**9 if i == unknown else n for i, n in enumerate(numbers))  # must not be read
                assert solve_for(expr, unknown, hidden, answer, []) == numbers[unknown]


def test_families_mention_each_number_once():
    """Every phrasing states every number, so that each problem can be solved in each of its wordings."""
    for family in FAMILIES:
        assert len(family.phrasings) >= 2
        assert len(family.ranges) == len(family.hard)
        for facts, question in family.phrasings:
            stated = sorted(re.findall(r"\{(\d)\}", facts + question))
            assert stated == [str(index) for index in range(len(family.ranges))]


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_tokenizer_is_lossless(tokenizer, text):
    """Any text comes back byte for byte; nothing is added."""
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_tokenizer_splits_digits_and_has_its_special_tokens(tokenizer):
    """Each digit is one token in any surrounding; EOS and PAD are there and differ; there is no BOS."""
    digit_tokens = [token for token in tokenizer.get_vocab() if any(c in "0123456789" for c in token)]
    assert sorted(digit_tokens) == list("0123456789")
    assert tokenizer.tokenize("1203/7=9") == ["1", "2", "0", "3", "/", "7", "=", "9"]
    assert None not in (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert tokenizer.bos_token is None
    assert tokenizer("2").input_ids == tokenizer("2", add_special_tokens=False).input_ids


def test_prompt_is_a_prefix_of_the_training_text(tokenizer):
    """Token ids of the prompt begin the ids of prompt + " " + response, for every training row."""
    rows = problems.train_rows()
    prompts = [problems.PROMPT.format(query=row["query"]) for row in rows]
    texts = [f"{prompt} {row['response']}" for prompt, row in zip(prompts, rows, strict=True)]
    for short, long in zip(tokenizer(prompts).input_ids, tokenizer(texts).input_ids, strict=True):
        assert long[: len(short)] == short


def test_model_is_small_wide_enough_and_stored_in_bf16():
    """At most 5M parameters and 10 MB; q and v at least 256 wide both ways; all weights finite."""
    import torch
    from safetensors.torch import load_file

    state = load_file(MODEL / "model.safetensors")
    assert sum(tensor.numel() for tensor in state.values()) <= 5_000_000
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 10_000_000
    assert all(tensor.dtype == torch.bfloat16 and bool(tensor.isfinite().all()) for tensor in state.values())
    for name, tensor in state.items():
        if name.endswith(("q_proj.weight", "v_proj.weight")):
            assert min(tensor.shape) >= 256
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "qwen3"


def test_stored_model_was_made_by_these_sources():
    """`python -m tools.tiny_base check=true` passes, and fails once a hyperparameter or the sources differ."""
    recipe.check()
    assert recipe.recipe_hash(recipe.Recipe(seed=1)) != recipe.recipe_hash()


def test_recipe_hash_ignores_comments_and_docstrings_only():
    """Rewording a comment keeps the hash's text; changing a value or a string does not."""
    source = 'X = 1  # why\n\n\ndef f():\n    """Doc."""\n    return "text"\n'
    reworded = 'X = 1  # because\n\ndef f():\n    """Other."""\n\n    return "text"\n'
    assert syntax_tree(source) == syntax_tree(reworded)
    assert syntax_tree(source) != syntax_tree(source.replace("1", "2"))
    assert syntax_tree(source) != syntax_tree(source.replace('"text"', '"other"'))


def test_check_refuses_another_recipe(tmp_path):
    """A folder without recipe.json, or with another hash, is refused in one line that says what to do."""
    with pytest.raises(SystemExit, match="make tiny-base"):
        recipe.check(tmp_path)
    (tmp_path / "recipe.json").write_text('{"recipe_hash": "0"}', encoding="utf-8")
    with pytest.raises(SystemExit, match="make tiny-base"):
        recipe.check(tmp_path)


def test_interrupted_pretraining_resumes_to_the_same_weights(tokenizer, tmp_path, monkeypatch):
    """Stopped after two of four steps; a state of another recipe is not used."""
    import torch

    from harness.tiny import pretrain

    monkeypatch.setattr(pretrain, "SAVE_EVERY", 2)
    small = recipe.Recipe(hidden_size=16, layers=1, heads=1, head_dim=16, intermediate_size=16, steps=4, batch_rows=2)

    def weights(state: Path, made: recipe.Recipe = small, stop: bool = False) -> dict[str, torch.Tensor]:
        def report(line: str) -> None:
            lines.append(line)
            if stop and line.startswith("step 2/"):
                raise KeyboardInterrupt

        return pretrain.pretrain(made, tokenizer, state, report).state_dict()

    lines: list[str] = []
    whole = weights(tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        weights(tmp_path / "stopped.pt", stop=True)
    lines.clear()
    resumed = weights(tmp_path / "stopped.pt")
    assert [line.split(",")[0] for line in lines[1:]] == ["step 4/4"]
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    lines.clear()
    weights(tmp_path / "stopped.pt", dataclasses.replace(small, seed=1))
    assert [line.split(",")[0] for line in lines[1:]] == ["step 2/4", "step 4/4"]
