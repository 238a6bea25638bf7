"""What would fail or mislead after training is refused before it: architectures, positions, tokens, padding."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors

from harness.data.batches import pad_id
from harness.data.load import Data
from harness.data.tokenize import prompt_ids, tokenize
from harness.errors import BadInput
from harness.evaluation.check_model import check_logits, check_model
from harness.evaluation.generate import generate
from harness.evaluation.kv_cache import takes_additive_mask
from harness.inputs.base_model import load_model
from harness.inputs.rows import Question
from harness.run import run
from tests.conftest import EOS, data_of, make_model, make_tokenizer
from tests.evaluation.test_generate import one_by_one

SIZES: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3}
HYBRID = {"layer_types": ["linear_attention", "full_attention"], "num_experts": 2, "num_experts_per_tok": 1}
HYBRID |= {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "linear_num_value_heads": 2}
HYBRID |= {"linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
DIFFERS = "decoding padded rows from a cache differs from a full forward"
CANNOT = "cannot be decoded in batches here"
ARCHITECTURES = [
    ("Gemma2", {"final_logit_softcapping": 3.0, "sliding_window": 4}, ""),
    ("Granite", {"logits_scaling": 8.0}, ""),
    ("Cohere", {}, ""),
    ("Mistral", {"sliding_window": 4}, ""),
    ("GPT2", {"n_embd": 32, "n_head": 4, "n_layer": 2}, ""),
    ("Bloom", {}, ""),
    ("GptOss", {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 4}, ""),
    ("Mamba", {}, DIFFERS),
    ("Rwkv", {}, DIFFERS),
    ("Bert", {}, DIFFERS),  # sees what follows a token
    ("Lfm2", {"layer_types": ["conv", "full_attention"]}, CANNOT),
    ("Qwen3Next", HYBRID, CANNOT),
]


@pytest.mark.parametrize(("kind", "settings", "message"), ARCHITECTURES, ids=[a[0] for a in ARCHITECTURES])
def test_an_architecture_decodes_here_or_is_refused(
    small_job: Any, kind: str, settings: dict[str, Any], message: str
) -> None:
    """Those accepted give the texts of one-by-one `generate`, past the sliding window too."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**(SIZES | settings))
    kinds = [getattr(transformers, f"{kind}{head}", None) for head in ("ForCausalLM", "LMHeadModel")]
    model: Any = next(k for k in kinds if k is not None)(config).eval()
    if message:
        with pytest.raises(BadInput, match=rf"^model.id: {type(model).__name__}: {message}"):
            check_logits(model, 0, small_job())
        return
    check_logits(model, 0, small_job())
    assert takes_additive_mask(model) is (kind in ("Granite", "Cohere"))  # the others have windows or no rotary layers
    prompts = [[3 + (7 * n + k) % 60 for k in range(2 + 3 * n)] for n in range(5)]
    got = generate(model, prompts, eos={0}, pad=0, batch_size=3, max_new_tokens=8, complete=lambda tokens: False)
    assert got == one_by_one(model, prompts, {0}, limit=8)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_quantized_and_bf16_models_pass(small_job: Any, quantization: str) -> None:
    for dtype in ("float32", "bfloat16"):
        job = small_job(f"quantization={quantization}", f"model.dtype={dtype}")
        check_logits(load_model(job), 0, job)


def test_longer_than_the_models_positions(tokenizer: Any, small_job: Any) -> None:
    """Prompt and answer, and training texts; one token less fits."""
    job = small_job()
    read = data_of(job, tokenizer)
    prompts = prompt_ids(job.prompt, [q.text for q in read.valid + read.test], tokenizer)
    asked = max(len(p) for p in prompts) + job.max_new_tokens
    trained = max(len(e.ids) for e in read.train)
    no_training = dataclasses.replace(read, train=[])

    def check(positions: int, data: Data) -> None:
        check_model(make_model(len(tokenizer), max_position_embeddings=positions), tokenizer, data, job)

    check(trained, read)
    check(asked, no_training)
    with pytest.raises(BadInput, match=rf"^eval.max_new_tokens: .*, got {asked}; expected <= {asked - 1}\. Lower it"):
        check(asked - 1, no_training)
    assert trained > asked
    with pytest.raises(
        BadInput, match=rf"^benchmark.max_length: .*, got {trained}; expected <= {trained - 1}\. Set it"
    ):
        check(trained - 1, read)


def test_a_pad_token_outside_the_embedding(small_job: Any, model_dir: Path, tmp_path: Path) -> None:
    """Added without resizing the model: padding is masked by position, so the run is the one without it."""
    from transformers import AutoTokenizer

    folder = shutil.copytree(model_dir, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    assert tokenizer.pad_token_id == make_model(258).get_input_embeddings().weight.shape[0]
    assert pad_id(tokenizer) == tokenizer.eos_token_id
    record, plain = run(small_job(f"model.id={folder}")), run(small_job())
    assert record["train"]["loss_last"] == plain["train"]["loss_last"]
    assert record["test"] == plain["test"]


def test_tokens_outside_the_embedding_are_refused(tokenizer: Any, small_job: Any) -> None:
    job = small_job()
    read = data_of(job, tokenizer)
    largest = read.train.largest_id  # type: ignore[attr-defined]
    assert largest == max(i for e in read.train for i in e.ids)
    with pytest.raises(
        BadInput, match=rf"^model.id: token '.*' lies outside the embedding of 99 rows, got {largest}; "
    ):
        check_model(make_model(99), tokenizer, read, job)
    soft_hyphen = dataclasses.replace(read, train=[], test=[Question("Why?", "\u00ad #### 2")])  # its last byte: 257
    check_model(make_model(258), tokenizer, soft_hyphen, job)
    with pytest.raises(BadInput, match=r"^model.id: token '.+' lies outside the embedding of 257 rows, got 257; "):
        check_model(make_model(257), tokenizer, soft_hyphen, job)


def test_an_eos_after_every_text_does_not_end_the_prompts(small_job: Any, model_dir: Path, tmp_path: Path) -> None:
    """As some tokenizers' post-processors add it: without it the same prompts, training texts and run."""
    folder = shutil.copytree(model_dir, tmp_path / "base")
    plain, ending = make_tokenizer(), make_tokenizer()
    ending.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"<|pad|> $A {EOS}", special_tokens=[(EOS, 0), ("<|pad|>", 1)]
    )
    assert ending("a")["input_ids"] == [1, *plain("a")["input_ids"], 0]
    template, rows = "Q {query} A:", [{"query": "1+1?", "response": "2"}]
    (prompt,), (own,) = (prompt_ids(template, ["1+1?"], t) for t in (ending, plain))
    assert prompt == [1, *own]
    (example,), (plain_example,) = (tokenize(rows, template, t) for t in (ending, plain))
    assert example is not None
    assert plain_example is not None
    assert (example.ids, example.prompt) == ((1, *plain_example.ids), plain_example.prompt + 1)
    special = f"<|pad|>{template}"  # special tokens in the template are read as such
    assert prompt_ids(special, ["1"], ending)[0][-1] != 0

    ending.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, 0)]
    )
    ending.save_pretrained(folder)
    assert json.loads((folder / "tokenizer.json").read_text())["post_processor"] is not None
    record, expected = run(small_job(f"model.id={folder}", "variant=none")), run(small_job("variant=none"))
    assert (record["test"], record["valid"]) == (expected["test"], expected["valid"])
