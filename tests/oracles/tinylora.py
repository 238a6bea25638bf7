"""TinyLoRA (arXiv 2602.04118), eq. of section 4. COUNT: u=64, as in PEFT's comparison (56 layers too)."""

from __future__ import annotations

from tests.dense import Dense, Layer, plain

COUNT = 3_584
SETTINGS = [{"r": 2, "u": 3, "seed": 5}, {"tie": 3}]
TWINS = {
    "tinylora": ({"r": 4, "u": 5}, "TinyLoraConfig", {"r": 4, "u": 5}),
    "tinylora tied": ({"r": 4, "u": 5, "tie": 2}, "TinyLoraConfig", {"r": 4, "u": 5, "weight_tying": 0.5}),
}


def pairs(site, layer):
    for theirs, ours in (("A", site.basis_Vh), ("B", site.basis_U), ("P", site.basis_P)):
        getattr(layer, f"tinylora_{theirs}")["default"] = ours.clone()
    v = layer.tinylora_v["default"][layer._tinylora_v_key["default"]]
    return {"lora_v": (v, lambda t: t, lambda g: g)}


def dense(L: Layer) -> Dense:
    U, S, Vh = plain(L, calibrated=False)
    core = sum(v * P for v, P in zip(L.t["lora_v"], L.frozen["basis_P"], strict=True))
    return L.W + (U * S) @ core @ Vh, L.b
