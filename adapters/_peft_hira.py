"""HiRA in PEFT's folders."""

from __future__ import annotations

from adapters._peft_kinds import Kind
from adapters._peft_lora import rank_fields

KIND = Kind(
    peft_type="HIRA",
    tensors=("hira_A", "hira_B"),
    on_conv1d=True,
    reads=("r", "rank_pattern", "fan_in_fan_out"),
    ignores=("hira_dropout", "init_weights"),
    write=lambda sites: {name: {"hira_A": site.lora_A, "hira_B": site.lora_B} for name, site in sites.items()},
    fields=lambda cfg, ranks, targets: rank_fields(ranks),
    settings=lambda config: {"r": config["r"]},
    rank=lambda tensors: len(tensors["hira_A"]),
    read=lambda site, tensors: {"lora_A": tensors["hira_A"], "lora_B": tensors["hira_B"]},
)
