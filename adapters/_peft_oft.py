"""OFT in PEFT's folders: exact Cayley transforms as they are; with the Neumann series PEFT's R is that of −Q."""

from __future__ import annotations

import re
from typing import Any

from adapters._errors import AdapterError, problem
from adapters._peft_kinds import Fields, Kind

SKEW = "oft_R.weight"
SERIES_SINCE = "0.18.0"  # PEFT's version; before, the series was another one


def _sign(cfg: Any) -> int:
    return 1 if cfg.terms is None else -1


def _version(text: str | None) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text or "0")[:2]]


def fields(cfg: Any, ranks: dict[str, int], targets: list[str] | str) -> Fields:
    series = {} if cfg.terms is None else {"num_cayley_neumann_terms": cfg.terms, "peft_version": SERIES_SINCE}
    sizes = {"r": 0, "oft_block_size": cfg.block, "block_share": cfg.share}
    return sizes | {"use_cayley_neumann": cfg.terms is not None} | series


def settings(config: Fields) -> Fields:
    if (r := config["r"]) != 0:
        what, remedy = "unsupported r, a number of blocks", "Train it with oft_block_size."
        raise AdapterError(problem("OFT", what, got=r, expected="0", remedy=remedy))
    series = config.get("use_cayley_neumann", False)
    if series and _version(config.get("peft_version")) < _version(SERIES_SINCE):
        what, remedy = "unsupported use_cayley_neumann of an older PEFT", "Train it again with PEFT 0.18 or later."
        raise AdapterError(problem("OFT", what, got=config.get("peft_version"), remedy=remedy))
    terms = config["num_cayley_neumann_terms"] if series else None
    return {"block": config["oft_block_size"], "share": config.get("block_share", False), "terms": terms}


KIND = Kind(
    peft_type="OFT",
    tensors=(SKEW,),
    reads=("r", "oft_block_size", "block_share", "use_cayley_neumann", "num_cayley_neumann_terms"),
    ignores=("module_dropout", "init_weights", "eps"),  # eps: of coft, which is refused
    write=lambda sites: {name: {SKEW: _sign(site.cfg) * site.lora_skew} for name, site in sites.items()},
    fields=fields,
    settings=settings,
    read=lambda site, tensors: {"lora_skew": _sign(site.cfg) * tensors[SKEW]},
)
