"""What an oracle in tests/oracles/ reads and returns, y' = W'x + b' in fp64, and the bases that several of them share.

No variant's own code is called, here or there. SVDs are torch's; their signs, which no definition fixes, are taken from
the adapter's left vectors, after `svd` has checked that those are singular vectors at all.
"""

from __future__ import annotations

import math
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
    """U, S and Vh·C^-½ of SVD(W·C^½), C or its diagonal, eigenvalues clamped at 0, plus cov_eps times their mean."""
    C = torch.diag(L.C.diagonal()) if diagonal else L.C
    values, Q = torch.linalg.eigh(C)
    values = values.clamp_min(0) + L.cfg.cov_eps * L.C.diagonal().mean()
    root, inverse = Q @ torch.diag(values.sqrt()) @ Q.T, Q @ torch.diag(values.rsqrt()) @ Q.T
    U, S, Vh = svd(L.W @ root, L.cfg.r, L.frozen["basis_U"])
    return U, S, Vh @ inverse


def plain(L: Layer, calibrated: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    return svd(L.W, L.cfg.r, L.frozen["basis_U"], L.C if calibrated else None)


def gained(L: Layer, U: Tensor, S: Tensor, Vh: Tensor) -> Dense:
    """A gain 1 + ELU(c·g) on each kept direction."""
    return L.W + U @ torch.diag(S * F.elu(L.cfg.coeff * L.t["lora_g"])) @ Vh, L.b
