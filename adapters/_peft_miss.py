"""MiSS in PEFT's folders, for one r on all layers; with others it is written as plain LoRA."""

from __future__ import annotations

from adapters._errors import AdapterError, problem
from adapters._peft_kinds import Fields, Kind


def settings(config: Fields) -> Fields:
    if (init := config.get("init_weights", True)) not in (True, False, "mini"):
        raise AdapterError(problem("MISS", "unsupported init_weights", got=init, expected="true, false or 'mini'"))
    return {"r": config["r"], "mini": config["mini_r"] if init == "mini" else None}


KIND = Kind(
    peft_type="MISS",
    tensors=("miss_block",),
    reads=("r", "mini_r", "init_weights"),
    ignores=("miss_dropout",),
    can_write=lambda sites: len({site.cfg.r for site in sites.values()}) == 1,
    write=lambda sites: {name: {"miss_block": site.lora_D} for name, site in sites.items()},
    fields=lambda cfg, ranks, targets: {
        "r": max(ranks.values()),
        **({} if cfg.mini is None else {"init_weights": "mini", "mini_r": cfg.mini}),
    },
    settings=settings,
    rank=lambda tensors: len(tensors["miss_block"]),
    read=lambda site, tensors: {"lora_D": tensors["miss_block"]},
)
