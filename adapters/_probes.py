"""What an adapted layer computes, in 16 numbers: seeded bilinear forms of ΔW, to compare functions through a file."""

from __future__ import annotations

import torch
from torch import Tensor

from adapters._contract import Variant
from adapters._format import PROBES

SEED = 2026


@torch.no_grad()
def bilinear_probes(site: Variant, weight: Tensor) -> tuple[Tensor, float]:
    """t_j = a_jᵀ ΔW b_j, j < 16, a and b seeded standard normal, in fp64; and ‖ΔW‖_F (from the factors, or estimated).

    E[t²] = ‖ΔW‖²_F, which serves as the norm's estimate for variants without factors.
    """
    generator = torch.Generator().manual_seed(SEED)
    a = torch.randn(PROBES, site.o, generator=generator, dtype=torch.float64).to(weight.device)
    b = torch.randn(PROBES, site.i, generator=generator, dtype=torch.float64).to(weight.device)
    with torch.autocast(weight.device.type, enabled=False):
        factors = site.factors()
        if factors is None:
            t = _of_function(site, weight.to(torch.float64), a, b)
            return t, float(t.square().mean().sqrt())
        P, Q = factors[0].to(torch.float64), factors[1].to(torch.float64)
        square = ((P.T @ P) * (Q @ Q.T)).sum().clamp_min(0)  # tr(QᵀPᵀPQ)
        return ((a @ P) * (b @ Q.T)).sum(1), float(square.sqrt())


def _of_function(site: Variant, W: Tensor, a: Tensor, b: Tensor) -> Tensor:
    x = site.forward_input(b) if site.changes_input() else b
    y = x @ W.T
    if type(site).forward is not Variant.forward:
        from_bias = site.forward(0 * x[:1], 0 * y[:1])  # no part of ΔW
        y = site.forward(x, y) - from_bias
    site.drop_cache()  # of fp64 values, which no forward pass reads
    return (a * (y - b @ W.T)).sum(1)
