"""Random models of transformers' classes, one or two layers of width 16, by the names their linear layers have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import Tensor

VOCABULARY = 40
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = SIZES | {"num_key_value_heads": 1}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
T5 = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
WHISPER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_mel_bins": 8,
    "max_source_positions": 10,
    "max_target_positions": 16,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
MOE = {"num_experts": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "num_experts_per_tok": 1}

BUILDERS: dict[str, Callable[[], Any]] = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)),
    "llama classifier": lambda: hf.LlamaForSequenceClassification(hf.LlamaConfig(**GROUPED)),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**SIZES)),
    "neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SIZES)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2, bos_token_id=1, eos_token_id=2)),
    "bert classifier": lambda: hf.BertForSequenceClassification(hf.BertConfig(**SIZES)),
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**SIZES)),
    "t5": lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5, pad_token_id=0, decoder_start_token_id=0)),
    "t5 questions": lambda: hf.T5ForQuestionAnswering(hf.T5Config(**T5, pad_token_id=0, decoder_start_token_id=0)),
    "whisper": lambda: hf.WhisperForConditionalGeneration(hf.WhisperConfig(**WHISPER, **SPECIAL)),
    "mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**GROUPED, num_local_experts=2)),
    "qwen moe": lambda: hf.Qwen2MoeForCausalLM(hf.Qwen2MoeConfig(**GROUPED, **MOE)),
    "mamba": lambda: hf.MambaForCausalLM(hf.MambaConfig(**SIZES, state_size=4)),
}


def build(name: str) -> Any:
    torch.manual_seed(0)
    return BUILDERS[name]().eval()


def inputs(name: str) -> dict[str, Tensor]:
    """A batch that runs every part of the model."""
    ids = torch.randint(3, VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(1))
    if name == "whisper":
        return {"input_features": torch.randn(2, 8, 20), "decoder_input_ids": ids}
    return {"input_ids": ids} | ({"decoder_input_ids": ids} if name == "t5" else {})
