"""DeLoRA in PEFT's folders. `residual_init` has no form there and is written as plain LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from adapters._errors import AdapterError, problem
from adapters._peft_kinds import Kind, Tensors
from adapters._peft_lora import rank_fields


def write(sites: Mapping[str, Any]) -> dict[str, Tensors]:
    return {
        name: {
            "delora_A": site.lora_A,
            "delora_B": site.lora_B,
            "delora_lambda": site.lora_lambda,
            "delora_w_norm": site.basis_w,
        }
        for name, site in sites.items()
    }


def read(site: Any, tensors: Tensors) -> Tensors:
    w = tensors.get("delora_w_norm", site.basis_w)
    tolerance = 1e-5 if w.dtype in (torch.float32, torch.float64) else 1e-2
    if not torch.allclose(w.to(site.basis_w), site.basis_w, rtol=tolerance, atol=0):
        raise AdapterError(problem("delora_w_norm", "these are not the column norms of this model's weight"))
    return {f"lora_{k}": tensors[f"delora_{k}"] for k in ("A", "B", "lambda")}


KIND = Kind(
    peft_type="DELORA",
    tensors=("delora_A", "delora_B", "delora_lambda"),
    optional=("delora_w_norm",),
    reads=("r", "rank_pattern", "delora_lambda"),
    ignores=("module_dropout", "init_weights", "lambda_pattern"),  # λ is a tensor of the file
    can_write=lambda sites: not any(site.cfg.residual_init for site in sites.values()),
    write=write,
    fields=lambda cfg, ranks, targets: rank_fields(ranks) | {"delora_lambda": cfg.lambda0},
    settings=lambda config: {"r": config["r"], "lambda0": config["delora_lambda"]},
    rank=lambda tensors: len(tensors["delora_A"]),
    read=read,
)
