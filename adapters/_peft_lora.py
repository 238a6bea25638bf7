"""LoRA in PEFT's folders, with rsLoRA and patterns. Also the form of every other variant that is linear in x.

P and Q of ΔW = PQ are written as B and A with the scale folded in: lora_alpha = r, so that every reader scales by 1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from adapters._errors import AdapterError, problem
from adapters._peft_kinds import Fields, Kind, Tensors

A, B = "lora_A.weight", "lora_B.weight"
READS = (
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern"),
    *("use_rslora", "use_dora", "init_lora_weights", "fan_in_fan_out"),
)
IGNORES = ("lora_dropout", "megatron_core", "qalora_group_size", "eva_config", "runtime_config")
UNCHANGED_BASE = (True, False, "gaussian", "eva", "orthogonal")  # other inits also change W, which is not in the file


def write(sites: Mapping[str, Any]) -> dict[str, Tensors]:
    return {name: _low_rank(site) for name, site in sites.items()}


def _low_rank(site: Any) -> Tensors:
    factors = site.factors()
    if factors is None:
        what = "neither linear in x nor of one of PEFT's kinds, so it cannot be exported"
        remedy = f"Define `factors`, or KIND in adapters/_peft_{site.name}.py."
        raise AdapterError(problem(site.name, what, remedy=remedy))
    P, Q = factors
    if P.shape[1] > min(site.o, site.i):  # e.g. pissa's 2r: no matrix has a larger rank than its smaller side
        W = P @ Q
        P, Q = (W, torch.eye(site.i).to(W)) if site.i <= site.o else (torch.eye(site.o).to(W), W)
    return {A: Q, B: P}


def rank_fields(ranks: dict[str, int]) -> Fields:
    """r and rank_pattern of layers that may differ in r."""
    common = Counter(ranks.values()).most_common(1)[0][0]
    pattern = {f"^{re.escape(n)}": r for n, r in ranks.items() if r != common}  # PEFT appends $
    return {"r": common, "rank_pattern": pattern}


def fields(cfg: Any, ranks: dict[str, int], targets: list[str] | str) -> Fields:
    ranked = rank_fields(ranks)
    return ranked | {"lora_alpha": ranked["r"], "alpha_pattern": ranked["rank_pattern"], "bias": "none"}


def settings(config: Fields) -> Fields:
    initial = config.get("init_lora_weights", True)
    if initial not in UNCHANGED_BASE:
        remedy = "Save it in PEFT with path_initial_model_for_weight_conversion."
        raise AdapterError(problem("LORA", "unsupported init_lora_weights", got=initial, remedy=remedy))
    scaling = "rslora" if config.get("use_rslora", False) else "standard"
    return {"r": config["r"], "alpha": config["lora_alpha"], "scaling": scaling}


def rank(tensors: Tensors) -> int:
    return len(tensors[A])


KIND = Kind(
    peft_type="LORA",
    flags={"use_dora": False},
    tensors=(A, B),
    on_conv1d=True,
    reads=READS,
    ignores=IGNORES,
    write=write,
    fields=fields,
    settings=settings,
    rank=rank,
    read=lambda site, t: {"lora_A": t[A], "lora_B": t[B]},
)
