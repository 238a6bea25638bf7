"""Seconds to attach a variant to the q and v layers of Qwen3-0.6B's shapes, without and with cached bases.

  python -m tools.bench_attach variant=<name> layers=28

Random weights; a fresh cache folder that is removed afterwards. The first figure computes every basis, the second reads
them all.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any


@dataclass
class Arguments:
    variant: str
    layers: int = 28


def main(argv: list[str]) -> None:
    from harness.cli.arguments import parse

    args = parse(Arguments, argv, __doc__ or "")
    import adapters as ad
    from harness.errors import refuse

    if args.variant not in ad.VARIANTS:
        raise refuse("variant", "unknown variant", got=args.variant, expected=f"one of {', '.join(ad.VARIANTS)}")
    model = attention_projections(args.layers)
    with tempfile.TemporaryDirectory() as cache:
        for what in ("computed", "cached"):
            start = time.perf_counter()
            with ad.attach(model, ad.VARIANTS[args.variant].Config(), seed=0, cache_dir=cache) as handle:
                taken = time.perf_counter() - start
                count = handle.basis_cache
                assert count is not None
                print(f"{args.variant}: {len(handle.sites)} layers, bases {what} ({count.hits} read): {taken:.1f} s")


def attention_projections(layers: int) -> Any:
    """q (1024→2048) and v (1024→1024) of every layer, named as in a Hugging Face model."""
    import torch
    from torch import nn

    torch.manual_seed(0)

    def block() -> nn.Module:
        attention = nn.ModuleDict(
            {"q_proj": nn.Linear(1024, 2048, bias=False), "v_proj": nn.Linear(1024, 1024, bias=False)}
        )
        return nn.ModuleDict({"self_attn": attention})

    return nn.ModuleDict({"layers": nn.ModuleList(block() for _ in range(layers))})


if __name__ == "__main__":
    main(sys.argv[1:])
