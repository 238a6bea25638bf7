"""LoKr in PEFT's folders: C with the scale folded in is `lokr_w1`; BA or D is `lokr_w2…`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapters._peft_kinds import Fields, Kind, Tensors
from adapters._peft_lora import rank_fields

W1, W2, A, B = "lokr_w1", "lokr_w2", "lokr_w2_b", "lokr_w2_a"  # PEFT's a is on the output's side
OURS = {A: "lora_A", B: "lora_B", W2: "lora_D"}


def write(sites: Mapping[str, Any]) -> dict[str, Tensors]:
    return {name: _layer(site) for name, site in sites.items()}


def _layer(site: Any) -> Tensors:
    names = site.shapes(site.cfg, site.o, site.i)
    return {W1: site.scale * site.lora_C} | {k: getattr(site, ours) for k, ours in OURS.items() if ours in names}


def fields(cfg: Any, ranks: dict[str, int], targets: list[str] | str) -> Fields:
    ranked = rank_fields(ranks)
    factor = -1 if cfg.factor is None else cfg.factor
    return ranked | {"alpha": ranked["r"], "alpha_pattern": ranked["rank_pattern"], "decompose_factor": factor}


KIND = Kind(
    peft_type="LOKR",
    tensors=(W1,),
    optional=(W2, A, B),
    fits=lambda tensors: tensors.keys() in ({W1, W2}, {W1, A, B}),
    reads=("r", "alpha", "rank_pattern", "alpha_pattern", "decompose_factor"),
    ignores=("rank_dropout", "module_dropout", "rank_dropout_scale", "init_weights", "use_effective_conv2d"),
    write=write,
    fields=fields,
    settings=lambda config: {
        "r": config["r"],
        "alpha": config["alpha"],
        "factor": None if config["decompose_factor"] == -1 else config["decompose_factor"],
    },
    rank=lambda tensors: len(tensors[A]) if A in tensors else None,
    read=lambda site, tensors: {"lora_C": tensors[W1]} | {OURS[k]: t for k, t in tensors.items() if k != W1},
)
