"""Qwen3-0.6B's shapes with random weights, and ways to adapt them: this library's, and PEFT's as a yardstick."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

import adapters as ad
from harness.device import choose_attention
from tools._shared import calibration

LORA = ("LoraConfig", {"r": 32})
PEFT_KINDS: dict[str, tuple[str, dict[str, Any]]] = {  # our variant → PEFT's config of the same rank and targets
    "lora": LORA,
    "pissa": LORA,  # once their first values are set, PEFT's PiSSA and EVA compute as its LoRA
    "eva": LORA,
    "dora": ("LoraConfig", {"r": 32, "use_dora": True}),
    "delora": ("DeloraConfig", {"r": 32}),
    "gralora": ("GraloraConfig", {"r": 32}),
    "hira": ("HiraConfig", {"r": 32}),
    "hra": ("HRAConfig", {"r": 32}),
    "ia3": ("IA3Config", {"target_modules": ["k_proj", "v_proj"], "feedforward_modules": []}),
    "ia3_ff": ("IA3Config", {"target_modules": ["down_proj"], "feedforward_modules": ["down_proj"]}),
    "lokr": ("LoKrConfig", {"r": 32, "decompose_factor": 4}),
    "miss": ("MissConfig", {"r": 64}),
    "oft": ("OFTConfig", {"oft_block_size": 32}),
    "road": ("RoadConfig", {}),
    "shira": ("ShiraConfig", {"r": 32}),
    "tinylora": ("TinyLoraConfig", {"r": 2, "u": 64}),
    "vera": ("VeraConfig", {"r": 256}),
}


def random_qwen3(layers: int, device: str, *, dtype: Any = None, **settings: Any) -> Any:
    """A frozen model, bf16 on CUDA and fp32 on CPU unless `dtype` says otherwise; settings change its config."""
    choose_attention()
    shape = {"hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "num_key_value_heads": 8}
    shape |= {"num_hidden_layers": layers, "head_dim": 128, "vocab_size": 8192, "tie_word_embeddings": True}
    torch.manual_seed(0)
    dtype = dtype or (torch.float32 if device == "cpu" else torch.bfloat16)
    return Qwen3ForCausalLM(Qwen3Config(**(shape | settings))).to(device, dtype).eval().requires_grad_(False)


def ways_to_adapt(variant: str, model: Any, ids: Any) -> dict[str, Callable[[], Any]]:
    """Label → factory of a context manager that adapts `model`: ours and, if PEFT has it, PEFT's.

    ids: token ids for variants that require calibration.
    """
    options: Any = {"calibration": calibration(variant, ids), "seed": 0, "cache_dir": ".cache/bench-bases"}
    ways: dict[str, Callable[[], Any]] = {variant: partial(ad.attach, model, ad.VARIANTS[variant].Config(), **options)}
    if variant in PEFT_KINDS:
        ways[f"{variant} (PEFT)"] = partial(peft_attached, model, variant)
    return ways


def peft_config(variant: str) -> Any:
    """PEFT's config of the variant, for q and v where PEFT_KINDS says nothing else."""
    import peft

    kind, options = PEFT_KINDS[variant]
    return getattr(peft, kind)(**({"target_modules": ["q_proj", "v_proj"]} | options))


@contextmanager
def peft_attached(model: Any, variant: str) -> Iterator[None]:
    """PEFT's adapter for the length of a block; unloading puts the model's own layers back."""
    import peft

    adapted = peft.get_peft_model(model, peft_config(variant))
    try:
        yield
    finally:
        adapted.unload()
        model.requires_grad_(False)
