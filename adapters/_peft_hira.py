"""HiRA in PEFT's folders: one r for all layers, so layers of a smaller r are padded with zeros, which BA does not see.

PEFT 0.21 has a `rank_pattern`, but gives plain layers the common r all the same: files that name one are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.nn.functional import pad

from adapters._peft_kinds import Kind, Tensors


def write(sites: Mapping[str, Any]) -> dict[str, Tensors]:
    largest = max(site.cfg.r for site in sites.values())
    missing = {name: largest - site.cfg.r for name, site in sites.items()}
    return {
        name: {
            "hira_A": pad(site.lora_A, (0, 0, 0, missing[name])),
            "hira_B": pad(site.lora_B, (0, missing[name])),
        }
        for name, site in sites.items()
    }


KIND = Kind(
    peft_type="HIRA",
    tensors=("hira_A", "hira_B"),
    on_conv1d=True,
    reads=("r", "fan_in_fan_out"),
    ignores=("hira_dropout", "init_weights"),
    write=write,
    fields=lambda cfg, ranks, targets: {"r": max(ranks.values())},
    settings=lambda config: {"r": config["r"]},
    rank=lambda tensors: len(tensors["hira_A"]),
    read=lambda site, tensors: {"lora_A": tensors["hira_A"], "lora_B": tensors["hira_B"]},
)
