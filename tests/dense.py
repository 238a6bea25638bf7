"""What every variant computes, as one dense weight and bias: y' = W'x + b', in fp64, written from the papers.

Nothing here calls the variants' own code. SVDs are torch's; their signs, which no definition fixes, are taken from the
adapter's left vectors, after `svd` has checked that those are singular vectors at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Layer:
    """One adapted layer: W (o, i), b (o,) or None, trainable tensors t, frozen ones (for signs), C = E[xxᵀ] (i, i)."""

    cfg: Any
    W: Tensor
    b: Tensor | None
    t: dict[str, Tensor]
    frozen: dict[str, Tensor]
    C: Tensor | None = None


Dense = tuple[Tensor, Tensor | None]


def scale(cfg: Any) -> float:
    alpha = cfg.r if cfg.alpha is None else cfg.alpha
    return alpha / (math.sqrt(cfg.r) if cfg.scaling.value == "rslora" else cfg.r)


def svd(W: Tensor, r: int, reference: Tensor, moment: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Top r by S, or with C by S·rms(v·x); columns of U with the signs of `reference` (o, r), up to its lengths."""
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    strength = S if moment is None else S * torch.einsum("ri,ij,rj->r", Vh, moment, Vh).sqrt()
    top = strength.argsort(descending=True)[:r]
    U, S, Vh = U[:, top], S[top], Vh[top]
    unit = reference / reference.norm(dim=0).clamp_min(1e-300)
    cosine = (U * unit).sum(0)
    assert (cosine.abs() > 1 - 1e-9).all(), "the adapter's basis is not W's singular basis"
    return U * cosine.sign(), S, Vh * cosine.sign()[:, None]


def oriented(L: Layer, diagonal: bool) -> tuple[Tensor, Tensor, Tensor]:
    """U, S and Vh·C^-½ of SVD(W·C^½), C with its eigenvalues clamped at 0 plus cov_eps, or C's diagonal only."""
    C = torch.diag(L.C.diagonal()) if diagonal else L.C
    values, Q = torch.linalg.eigh(C)
    values = values.clamp_min(0) + L.cfg.cov_eps
    root, inverse = Q @ torch.diag(values.sqrt()) @ Q.T, Q @ torch.diag(values.rsqrt()) @ Q.T
    U, S, Vh = svd(L.W @ root, L.cfg.r, L.frozen["basis_U"])
    return U, S, Vh @ inverse


def plain(L: Layer, calibrated: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    return svd(L.W, L.cfg.r, L.frozen["basis_U"], L.C if calibrated else None)


# -- one function per variant ------------------------------------------------------------------------------------------
def lora(L: Layer) -> Dense:
    return L.W + scale(L.cfg) * L.t["lora_B"] @ L.t["lora_A"], L.b


def pissa(L: Layer) -> Dense:
    """The paper's: a residual weight plus trained A and B that start at the principal part."""
    s = scale(L.cfg)
    U, S, Vh = svd(L.W, L.cfg.r, L.frozen["basis_B"])
    A0, B0 = (S / s).sqrt()[:, None] * Vh, U * (S / s).sqrt()
    residual = L.W - (U * S) @ Vh
    return residual + s * (B0 + L.t["lora_dB"]) @ (A0 + L.t["lora_dA"]), L.b


def dora(L: Layer) -> Dense:
    changed = lora(L)[0]
    m = L.W.norm(dim=1) + L.t["lora_delta"]
    n = changed.detach().norm(dim=1)
    return (m / torch.where(n > 0, n, 1.0))[:, None] * changed, L.b


def delora(L: Layer) -> Dense:
    def change(A: Tensor, B: Tensor, strength: Tensor) -> Tensor:
        xi = torch.diag(1 / (A.norm(dim=1).clamp_min(1e-4) * B.norm(dim=0).clamp_min(1e-4)))
        return strength / L.cfg.r * B @ xi @ A @ torch.diag(L.W.norm(dim=0))

    delta = change(L.t["lora_A"], L.t["lora_B"], L.t["lora_lambda"])
    if L.cfg.residual_init:
        delta = delta - change(L.frozen["basis_A"], L.frozen["basis_B"], L.W.new_tensor([L.cfg.lambda0]))
    return L.W + delta, L.b


def ia3(L: Layer) -> Dense:
    gate = 1 + L.t["lora_delta"]
    return torch.diag(gate) @ L.W, None if L.b is None else gate * L.b


def ia3_ff(L: Layer) -> Dense:
    return L.W @ torch.diag(1 + L.t["lora_delta"]), L.b


def hra(L: Layer) -> Dense:
    W, eye = L.W, torch.eye(L.W.shape[1], dtype=L.W.dtype)
    for u in L.t["lora_U"]:
        W = W @ (eye - 2 * torch.outer(u, u) / u.dot(u))
    return W, L.b


def _gain(L: Layer, U: Tensor, S: Tensor, Vh: Tensor) -> Dense:
    return L.W + U @ torch.diag(S * F.elu(L.cfg.coeff * L.t["lora_g"])) @ Vh, L.b


def antipasto(L: Layer) -> Dense:
    return _gain(L, *plain(L))


def antipasto_corda(L: Layer) -> Dense:
    return _gain(L, *oriented(L, diagonal=False))


def antipasto_asvd(L: Layer) -> Dense:
    return _gain(L, *oriented(L, diagonal=True))


def antipasto_ablate(L: Layer) -> Dense:
    U, S, Vh = oriented(L, diagonal=False) if L.cfg.cov_orient else plain(L)
    D = L.t["lora_c"]
    Q = D / D.norm() if L.cfg.k == 1 else torch.linalg.qr(D)[0]
    contraction = Q @ torch.diag(L.t["lora_alpha"]) @ Q.T
    return L.W - L.cfg.coeff * U @ contraction @ torch.diag(S) @ Vh, L.b


def antipasto_arrow(L: Layer) -> Dense:
    U, S, Vh = plain(L, calibrated=False)
    core = torch.block_diag(L.cfg.coeff * L.t["lora_M"], torch.diag(F.elu(L.cfg.coeff * L.t["lora_g"])))
    return L.W + U @ core @ torch.diag(S) @ Vh, L.b


def antipasto_dplr(L: Layer) -> Dense:
    U, S, Vh = plain(L, calibrated=False)
    c = L.cfg.coeff
    core = torch.diag(S * F.elu(c * L.t["lora_g"])) + c * L.t["lora_B"] @ L.t["lora_A"]
    return L.W + U @ core @ Vh, L.b


def antipasto_rot(L: Layer) -> Dense:
    U, S, Vh = plain(L, calibrated=False)
    limit, eye, blocks = 2 * math.tan(0.25), torch.eye(4, dtype=L.W.dtype), []
    rows, columns = torch.triu_indices(4, 4, 1)
    for v in L.t["lora_skew"]:
        upper = torch.zeros(4, 4, dtype=L.W.dtype).index_put((rows, columns), v)
        A = (upper - upper.T) / (1 + v.dot(v) / limit**2).sqrt()
        assert torch.linalg.matrix_norm(A, 2) <= limit
        A = L.cfg.coeff * A
        blocks.append(torch.linalg.solve(eye - A / 2, eye + A / 2))
    R = torch.block_diag(*blocks)
    assert torch.allclose(R @ R.T, torch.eye(len(R), dtype=R.dtype), atol=1e-12)
    gained = torch.diag(S * (1 + F.elu(L.cfg.coeff * L.t["lora_g"])))
    return L.W + U @ (gained @ R - torch.diag(S)) @ Vh, L.b


def lora_xs(L: Layer) -> Dense:
    U, S, Vh = plain(L, calibrated=False)
    return L.W + scale(L.cfg) * U @ L.t["lora_R"] @ torch.diag(S) @ Vh, L.b


def road(L: Layer) -> Dense:
    """Output by output: element n of a group's first half pairs with element n of its second half."""
    o, group, kind = L.W.shape[0], L.cfg.group_size, L.cfg.kind
    half = group // 2
    theta, alpha = L.t["lora_theta"], 1 + L.t["lora_scale"]
    rows = []
    for n in range(o):
        g, place = divmod(n, group)
        own = {1: g * half + place % half, 2: n, 4: 2 * g * group + place}[kind]
        other = own + group if kind == 4 else own
        first = place < half
        partner = n + half if first else n - half
        sine = alpha[other] * theta[other].sin()
        row = torch.zeros(o, dtype=L.W.dtype)
        row = row.index_put((torch.tensor([n]),), alpha[own] * theta[own].cos())
        rows.append(row.index_put((torch.tensor([partner]),), -sine if first else sine))
    R = torch.stack(rows)
    return R @ L.W, None if L.b is None else R @ L.b


ORACLES: dict[str, Callable[[Layer], Dense]] = {
    f.__name__: f
    for f in (lora, pissa, dora, delora, ia3, ia3_ff, hra, antipasto, antipasto_corda, antipasto_asvd, antipasto_ablate)
} | {f.__name__: f for f in (antipasto_arrow, antipasto_dplr, antipasto_rot, lora_xs, road)}
ORACLES["eva"] = lora  # another init of the same function
