"""Seconds to attach a variant to Qwen3-0.6B's shapes with random weights: bases computed, then read from the cache.

python -m tools.bench_attach variant=<name>
    layers=28
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass

from harness.cli.arguments import parse
from tools._shared import calibration, one_of, timed, variants


@dataclass
class Arguments:
    variant: str
    layers: int = 28


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    import torch

    import adapters as ad
    from tools._qwen3 import random_qwen3

    cfg = ad.VARIANTS[one_of("variant", args.variant, variants(["all"]))].Config()
    model = random_qwen3(args.layers, "cpu", vocab_size=64)
    batches = calibration(args.variant, torch.arange(64).view(4, 16))
    with tempfile.TemporaryDirectory() as cache:
        for what in ("computed", "cached"):
            seconds, handle = timed(lambda: ad.attach(model, cfg, seed=0, calibration=batches, cache_dir=cache))
            assert handle.basis_cache is not None
            read = handle.basis_cache.hits
            print(f"{args.variant}: {len(handle.sites)} layers, bases {what} ({read} read): {seconds:.1f} s")
            ad.detach(model)


if __name__ == "__main__":
    main(sys.argv[1:])
