"""VeRA in PEFT's folders: A and B once per file, and each layer takes a corner of them.

Of layers that differ in size or r, d takes up the difference between their bounds here (see `vera`) and in the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from adapters._errors import AdapterError, problem
from adapters._peft_kinds import FILE, Fields, Kind, Tensors

GATE_B, GATE_D, A, B = "vera_lambda_b", "vera_lambda_d", "vera_A", "vera_B"


def write(sites: Mapping[str, Any]) -> dict[str, Tensors]:
    o, r, i = (max(sizes) for sizes in zip(*((s.o, s.cfg.r, s.i) for s in sites.values()), strict=True))
    of_file = {A: torch.zeros(r, i, dtype=torch.float64), B: torch.zeros(o, r, dtype=torch.float64)}
    layers: dict[str, Tensors] = {FILE: of_file}
    for name, site in sites.items():
        own = site.cfg.seed is not None  # otherwise A and B are a file's already
        a, b = (math.sqrt(site.i / i), math.sqrt(site.cfg.r / r)) if own else (1.0, 1.0)
        of_file[A][: site.cfg.r, : site.i] = a * site.basis_A
        of_file[B][: site.o, : site.cfg.r] = b * site.basis_Bt.T
        layers[name] = {GATE_B: site.lora_b, GATE_D: F.pad(site.lora_d / (a * b), (0, r - site.cfg.r))}
    return layers


def settings(config: Fields) -> Fields:
    if not config.get("save_projection", True):
        remedy = "Save it in PEFT with save_projection=True."
        raise AdapterError(problem("VERA", "unsupported save_projection", got=False, remedy=remedy))
    return {"r": config["r"], "seed": None}


KIND = Kind(
    peft_type="VERA",
    tensors=(GATE_B, GATE_D),
    of_file="vera_[AB]",
    on_conv1d=True,
    reads=("r", "save_projection", "fan_in_fan_out"),
    ignores=("d_initial", "init_weights", "vera_dropout", "projection_prng_key"),
    write=write,
    fields=lambda cfg, ranks, targets: {"r": max(ranks.values()), "save_projection": True},
    settings=settings,
    rank=lambda tensors: len(tensors[GATE_D]),
    basis=lambda cfg, t, o, i: {"basis_A": t[A][:, :i], "basis_Bt": t[B][:o].T},
    read=lambda site, t: {"lora_b": t[GATE_B], "lora_d": t[GATE_D]},
)
