"""DoRA (arXiv 2402.09353), eq. 5, with norms of rows."""

from __future__ import annotations

import torch

from tests.dense import Dense, Layer
from tests.oracles import lora

COUNT = 4_673_536
SETTINGS = [{"scaling": "rslora"}]
DETACHED = {"lora_A", "lora_B"}  # the norm n is a constant
PEFT = {
    "dora": ("LoraConfig", {"r": 4, "lora_alpha": 6, "use_dora": True}),
    "dora rs": ("LoraConfig", {"r": 4, "use_dora": True, "use_rslora": True, **lora.PATTERNS}),
}


def dense(L: Layer) -> Dense:
    changed = lora.dense(L)[0]
    m = L.W.norm(dim=1) + L.t["lora_delta"]
    n = changed.detach().norm(dim=1)
    return (m / torch.where(n > 0, n, 1.0))[:, None] * changed, L.b
