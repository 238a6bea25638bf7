"""RoAd in PEFT's folders: `variant` road_1, road_2, road_4 is our `kind`; road_alpha is 1 + lora_scale."""

from __future__ import annotations

from adapters._peft_kinds import Kind

KIND = Kind(
    peft_type="ROAD",
    tensors=("road_theta", "road_alpha"),
    reads=("variant", "group_size"),
    ignores=("init_weights",),
    write=lambda sites: {
        name: {"road_theta": site.lora_theta, "road_alpha": 1 + site.lora_scale} for name, site in sites.items()
    },
    fields=lambda cfg, ranks, targets: {"variant": f"road_{cfg.kind}", "group_size": cfg.group_size},
    settings=lambda config: {
        "kind": {"road_1": 1, "road_2": 2, "road_4": 4}[config["variant"]],
        "group_size": config["group_size"],
    },
    read=lambda site, tensors: {
        "lora_theta": tensors["road_theta"],
        "lora_scale": tensors["road_alpha"].double() - 1,
    },
)
