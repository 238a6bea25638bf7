"""Full fine-tuning: every weight is trained. The ceiling, and the one exception to "weights are never written".

y' = (W + ΔW)x + b, with ΔW in the weights themselves. Identity at t=0: nothing has changed yet.
Keeps a copy of every parameter and buffer of the state dict in CPU memory, so that detach restores the model bit for
bit. A checkpoint holds all parameters and the buffers that training changed (BatchNorm's statistics). Weight decay
pulls towards zero, as in ordinary fine-tuning, not towards the pretrained weights. bf16 weights lose small steps to
rounding: for a fair ceiling load the model in float32 (and use autocast), or give the optimizer fp32 copies, as the
harness does.
"""

from __future__ import annotations

from dataclasses import dataclass

from adapters._contract import Config, Variant


@dataclass(frozen=True, kw_only=True)
class FullConfig(Config):
    """`targets` and `dtype` are accepted so that every config can be treated alike: all weights train, as they are."""


class Full(Variant):
    Config = FullConfig
    supports_quantized = False
    trains_base = True
