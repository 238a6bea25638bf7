"""The tiny model's tokenizer: lossless byte-level BPE in which every digit is a token of its own.

Digits apart is what lets a model of this size carry digit by digit; byte level is what makes any text round-trip.
"""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from harness.tiny.documents import pretraining_documents, text_of
from harness.tiny.problems import PROMPT, train_rows
from harness.tiny.recipe import VOCAB_SIZE, Recipe

EOS, PAD = "<|endoftext|>", "<|pad|>"
CORPUS_DOCUMENTS = 4000


def corpus() -> list[str]:
    """What the merges are learnt from: training rows and pre-training documents, never test rows."""
    texts = [f"{PROMPT.format(query=row['query'])} {row['response']}" for row in train_rows()]
    documents = pretraining_documents(0, CORPUS_DOCUMENTS, *Recipe().shares)
    return texts + [text_of(document) for document in documents]


def train_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, trained from scratch. Deterministic: the same corpus gives the same merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[EOS, PAD],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
