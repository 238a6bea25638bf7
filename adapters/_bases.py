"""Frozen SVD bases: computed in fp64, reproducible across thread counts and devices, cached on disk on request.

The right singular vectors of W are eigenvectors of WᵀW. Computing them in fp64 costs half the digits and leaves more
than a bf16 or fp32 basis can hold, while fp32 SVD vectors move by 1e-3 between thread counts. Signs, which an
eigendecomposition leaves open, are fixed by a seeded random vector.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters._files import atomic_file

ALGORITHM = 2  # part of every cache key: raise it when any basis would come out different


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """One CPU thread: LAPACK's reductions depend on how many share the work."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def svd(W: Float[Tensor, "o i"]) -> tuple[Float[Tensor, "o m"], Float[Tensor, " m"], Float[Tensor, "m i"]]:
    """U (o, m), S (m,) descending, Vh (m, i) with W = U·diag(S)·Vh and m = min(o, i), fp64, signs fixed.

    Directions in the null space of W (S below rounding) have a zero column in the side that had to be divided by S.
    """
    W = W.detach().to(torch.float64)
    if not torch.isfinite(W).all():
        raise ValueError("weight has NaN or Inf: no singular value decomposition")
    tall = W.shape[0] > W.shape[1]
    A = W if tall else W.T  # (n, m) with m = min(o, i)
    with _one_thread(W.device):
        eigenvalues, V = eigenvectors(A.T @ A)
        S, AV = eigenvalues.sqrt(), A @ V
    # Below this, S is rounding noise of the Gram matrix, and AV/S would not be a unit vector.
    noise = 1e-7 * S[0].clamp_min(torch.finfo(S.dtype).tiny)
    other = torch.where(noise < S, AV / S.clamp_min(noise), torch.zeros_like(AV))
    return (other, S, V.T.contiguous()) if tall else (V, S, other.T.contiguous())


def eigenvectors(C: Float[Tensor, "n n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n n"]]:
    """Eigenvalues (n,) ≥ 0, descending, and eigenvectors as columns (n, n) of a semidefinite C; signs fixed."""
    with _one_thread(C.device):
        values, V = torch.linalg.eigh(C.detach().to(torch.float64))  # ascending
        V = V.flip(1)
        return values.flip(0).clamp_min(0), V * _signs(V)


def _signs(V: Float[Tensor, "n m"]) -> Float[Tensor, " m"]:
    """±1 per column, so that each column has a non-negative product with one seeded random vector."""
    z = torch.randn(V.shape[0], dtype=torch.float64, generator=torch.Generator().manual_seed(20260107)).to(V.device)
    return torch.where(z @ V < 0, -1.0, 1.0).to(V.dtype)


def top_r(
    W: Float[Tensor, "o i"], r: int, moment: Float[Tensor, "i i"] | None = None
) -> tuple[Float[Tensor, "o r"], Float[Tensor, " r"], Float[Tensor, "r i"], Tensor]:
    """The r singular triples of W with the largest S, or with C = E[xxᵀ] the largest S·rms(v·x); and their indices.

    rms(v·x) = √(vᵀCv) is how strongly the layer's inputs excite a direction (arXiv 2601.07473).
    """
    U, S, Vh = svd(W)
    strength = S
    if moment is not None:
        C = moment.to(Vh)
        strength = S * ((Vh @ C) * Vh).sum(1).clamp_min(0).sqrt()
    index = strength.argsort(descending=True, stable=True)[:r]
    return U[:, index], S[index], Vh[index], index


def selected(W: Float[Tensor, "o i"], r: int, moment: Float[Tensor, "i i"] | None) -> dict[str, Tensor]:
    """`top_r` as basis tensors; with C also `basis_index` (r,), which a checkpoint stores."""
    U, S, Vh, index = top_r(W, r, moment)
    basis = {"basis_U": U, "basis_S": S, "basis_Vh": Vh}
    return basis if moment is None else basis | {"basis_index": index}


def selected_again(W: Float[Tensor, "o i"], stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """`selected`, from the weight and the stored `basis_index`; or what is stored, when that is the whole basis."""
    if "basis_U" in stored:
        return stored
    U, S, Vh = svd(W)
    index = stored["basis_index"].to(U.device)
    return {"basis_U": U[:, index], "basis_S": S[index], "basis_Vh": Vh[index], "basis_index": index}


def oriented(W: Float[Tensor, "o i"], r: int, C: Float[Tensor, "i i"], eps: float) -> dict[str, Tensor]:
    """U, S and Vh·C^-½ (top r) of SVD(W·C^½), C's eigenvalues raised by eps times their mean.

    Directions without input are damped, so that U·diag(S)·(Vh·C^-½) = W at full rank whatever the rank of C.
    """
    values, Q = eigenvectors(C)
    root = (values + damping(C, eps)).sqrt()  # (i,)
    with _one_thread(W.device):
        U, S, Vh = svd(W.to(Q) @ ((Q * root) @ Q.T))
        return {"basis_U": U[:, :r], "basis_S": S[:r], "basis_Vh": Vh[:r] @ ((Q / root) @ Q.T)}


def damping(C: Float[Tensor, "i i"], eps: float) -> Float[Tensor, ""]:
    """eps times the mean square of an input, mean(diag C): bases do not depend on the unit of the inputs."""
    mean = C.diagonal().mean()
    return eps * torch.where(mean > 0, mean, 1.0)  # inputs that are always zero: any positive number will do


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}\n".encode())
        digest.update(t.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class BasisCache:
    """Bases on disk, one safetensors file per (layer weight, config, calibration); safe between processes."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.hits = self.misses = 0

    @staticmethod
    def key(variant: str, weight_sha256: str, fields: dict[str, object], moment: Tensor | None) -> str:
        from adapters._weights import values_sha256

        parts = [ALGORITHM, variant, weight_sha256, fields, None if moment is None else values_sha256(moment)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def read(self, key: str) -> dict[str, Tensor] | None:
        path = self.folder / f"{key}.safetensors"
        try:
            with safe_open(path, framework="pt") as file:
                digest = (file.metadata() or {}).get("sha256")
            tensors = load_file(path)
        except (OSError, SafetensorError):  # absent, or damaged: both mean "compute it again"
            tensors, digest = {}, None
        if not tensors or digest != tensors_sha256(tensors):
            self.misses += 1
            return None
        self.hits += 1
        return tensors

    def write(self, key: str, tensors: dict[str, Tensor]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
        with atomic_file(self.folder / f"{key}.safetensors") as temporary:
            save_file(kept, temporary, metadata={"sha256": tensors_sha256(kept)})
