"""Training texts as token ids: the prompt is a prefix, EOS the last token; special tokens only from the template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import refuse
from harness.inputs.rows import Row


@dataclass(frozen=True)
class Example:
    """One tokenised training text; the loss is on `ids[prompt:]` (response and EOS) only."""

    ids: tuple[int, ...]
    prompt: int  # number of prompt tokens

    @property
    def labels(self) -> int:
        """Number of tokens with a loss."""
        return len(self.ids) - self.prompt


def prompt_of(template: str, query: str) -> str:
    return template.replace("{query}", query)  # str.format would trip over other braces, as in \\boxed{}


def prompt_ids(template: str, queries: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Token ids of each prompt, the same in training and evaluation. Raises BadInput as `_encode`."""
    ids = _encode(template, [prompt_of(template, q) for q in queries], queries, tokenizer)
    bos = tokenizer.bos_token_id
    if bos is not None and any(i[:2] == [bos, bos] for i in ids):
        what = "begins with BOS, which this tokenizer adds by itself"
        raise refuse("benchmark.prompt", what, got=template, remedy="Leave it out.")
    return ids


def tokenize(rows: Sequence[Row], template: str, tokenizer: Any) -> list[Example | None]:
    """prompt + " " + response + EOS of each row, untruncated.

    None where the prompt does not tokenize to a prefix of the text (training would see prompts that evaluation never
    does), or where EOS comes before the end (the answer would stop there).
    """
    if not rows:
        return []
    eos, end = tokenizer.eos_token_id, tokenizer.eos_token
    # Some data sets end their responses in the text of EOS; it is added below as the token.
    responses = [r["response"].strip().removesuffix(end).rstrip() for r in rows]
    texts = [f"{prompt_of(template, r['query'])} {text}" for r, text in zip(rows, responses, strict=True)]
    prompts = prompt_ids(template, [r["query"] for r in rows], tokenizer)
    examples: list[Example | None] = []
    for prompt, ids in zip(prompts, _encode(template, texts, responses, tokenizer), strict=True):
        if ids[-1] != eos:
            ids = [*ids, eos]
        start = len(prompt)
        sound = ids[:start] == prompt and start < len(ids) and eos not in ids[start:-1]
        examples.append(Example(tuple(ids), start) if sound else None)
    return examples


def _encode(template: str, texts: list[str], parts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Token ids of `texts`; the text of a special token is one only where the template has it.

    A question that quotes `<|im_end|>` must not end its own prompt, so special tokens are split like any other text. A
    template of an Instruct model has them on purpose; then they are read everywhere, and BadInput is raised where one
    of `parts`, what the data put into `texts`, has one too.
    """
    special = re.compile("|".join(re.escape(t) for t in special_tokens(tokenizer)) or "(?!)")
    split = special.search(template) is None
    for part in parts if not split else ():
        if match := special.search(part):
            what = f"has special tokens, and the data has the text {match[0]}, which would act as one"
            shown = part[max(0, match.start() - 30) : match.end() + 10]
            raise refuse("benchmark.prompt", what, got=shown, remedy="Remove it from the data or the prompt.")
    ids = tokenizer(texts, split_special_tokens=split, return_attention_mask=False)["input_ids"]
    appended = _appended(tokenizer)
    return [i[: len(i) - appended] for i in ids] if appended else ids


def _appended(tokenizer: Any) -> int:
    """How many tokens the tokenizer puts after every text by itself: EOS there would end a prompt before its answer."""
    text, whole = (tokenizer("a", add_special_tokens=add)["input_ids"] for add in (False, True))
    start = next((k for k in range(len(whole)) if whole[k : k + len(text)] == text), len(whole) - len(text))
    return len(whole) - start - len(text)


def special_tokens(tokenizer: Any) -> list[str]:
    """Texts that the tokenizer reads as control tokens, longest first."""
    return sorted({t.content for t in tokenizer.added_tokens_decoder.values() if t.special}, key=lambda t: (-len(t), t))
