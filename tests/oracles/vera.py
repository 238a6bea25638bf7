"""VeRA (arXiv 2310.11454), eq. 2, with A and B drawn once more, row by row."""

from __future__ import annotations

import torch

from tests.dense import Dense, Layer

COUNT = 28 * (2048 + 1024 + 2 * 256)
SETTINGS = [{"seed": 3, "d_initial": -0.2}]
PEFT = {"vera": ("VeraConfig", {"r": 4}), "vera seed": ("VeraConfig", {"r": 24, "projection_prng_key": 5})}
TWINS = {"vera": ({"r": 8}, "VeraConfig", {"r": 8})}


@torch.no_grad()
def pairs(site, layer):
    layer.vera_A["default"][:, : site.i] = site.basis_A
    layer.vera_B["default"][: site.o] = site.basis_Bt.T
    return {f"lora_{k}": (getattr(layer, f"vera_lambda_{k}")["default"], lambda t: t, lambda g: g) for k in "bd"}


def drawn(r: int, n: int, first: int, fan_in: int) -> torch.Tensor:
    rows = [torch.rand(n, generator=torch.Generator().manual_seed(first + 2 * j)) for j in range(r)]
    return (2 * torch.stack(rows) - 1).double() * (6 / fan_in) ** 0.5


def dense(L: Layer) -> Dense:
    (o, i), r, first = L.W.shape, L.cfg.r, 65536 * L.cfg.seed
    A, B = drawn(r, i, first, i), drawn(r, o, first + 1, r).T
    for name, exact in (("basis_A", A), ("basis_Bt", B.T)):
        assert torch.allclose(L.frozen[name], exact, atol=1e-6)
    A, B = L.frozen["basis_A"], L.frozen["basis_Bt"].T
    return L.W + torch.diag(L.t["lora_b"]) @ B @ torch.diag(L.t["lora_d"]) @ A, L.b
