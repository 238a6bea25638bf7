"""Which of PEFT's kinds computes the same function as which variant, and how their tensors and fields translate.

Written from PEFT 0.21's files and layers. A variant without an entry that is linear in x goes out as plain LoRA.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adapters._contract import Variant
from adapters._errors import AdapterError, problem

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Kind:
    """One of PEFT's kinds beside the variant that computes the same.

    write: PEFT's tensors of one layer, from our site (in fp64). read: our tensors, from the attached site and PEFT's.
    fields: more of adapter_config.json, from our config, the layers' ranks and `target_modules`. settings: our config's
    fields, from it. flags: what in the config tells it from other kinds of its peft_type. fits: the same, told from a
    layer's tensors. rank: r of a layer. padded: a layer's tensors at a larger r, where PEFT has one r for all layers.
    can_write: whether PEFT's kind covers this config; otherwise it is written as plain LoRA.
    """

    peft_type: str
    tensors: tuple[str, ...]
    write: Callable[[Any], Tensors]
    read: Callable[[Any, Tensors], Tensors]
    fields: Callable[[Any, dict[str, int], Any], dict[str, Any]]
    settings: Callable[[dict[str, Any]], dict[str, Any]] = lambda config: {}
    flags: Mapping[str, Any] = field(default_factory=dict)
    fits: Callable[[Tensors], bool] = lambda tensors: True
    rank: Callable[[Tensors], int] | None = None
    padded: Callable[[Tensors, int], Tensors] = lambda tensors, r: tensors
    can_write: Callable[[Any], bool] = lambda cfg: True


# -- the table's longer entries ----------------------------------------------------------------------------------------
def _write_factors(site: Variant) -> Tensors:
    factors = site.factors()
    if factors is None:
        raise AdapterError(problem(site.name, "neither linear in x nor one of PEFT's kinds; it cannot be exported"))
    P, Q = factors
    if P.shape[1] > min(site.o, site.i):  # e.g. pissa's 2r: no matrix has a larger rank than its smaller side
        W = P @ Q
        P, Q = (W, torch.eye(site.i).to(W)) if site.i <= site.o else (torch.eye(site.o).to(W), W)
    return {"lora_A.weight": Q, "lora_B.weight": P}


def _magnitude(site: Any) -> Tensor:
    """m = m₀ + δ; a row of W that is zero stays zero."""
    m0 = site.basis_square.sqrt()  # (o,)
    return torch.where(m0 == 0, 0, m0 + site.lora_delta)


def _read_magnitude(site: Any, tensors: Tensors) -> Tensor:
    """δ = m − m₀; a row of W that is zero has no magnitude to change."""
    m0 = site.basis_square.double().sqrt()  # (o,)
    m = tensors["lora_magnitude_vector"].to(m0)
    if (m[m0 == 0] != 0).any():
        raise AdapterError(problem("lora_magnitude_vector", "is not zero where the base weight's row is"))
    return m - m0


def _read_delora(site: Any, tensors: Tensors) -> Tensors:
    w = tensors.get("delora_w_norm", site.basis_w)
    tolerance = 1e-5 if w.dtype in (torch.float32, torch.float64) else 1e-2
    if not torch.allclose(w.to(site.basis_w), site.basis_w, rtol=tolerance, atol=0):
        raise AdapterError(problem("delora_w_norm", "these are not the column norms of this model's weight"))
    return {f"lora_{k}": tensors[f"delora_{k}"] for k in ("A", "B", "lambda")}


def _lora_fields(cfg: Any, ranks: dict[str, int], targets: Any) -> dict[str, Any]:
    common = Counter(ranks.values()).most_common(1)[0][0]
    pattern = {f"^{re.escape(n)}": r for n, r in ranks.items() if r != common}  # PEFT appends $
    return {"r": common, "lora_alpha": common, "rank_pattern": pattern, "alpha_pattern": pattern, "bias": "none"}


def _lora_settings(config: dict[str, Any]) -> dict[str, Any]:
    scaling = "rslora" if config.get("use_rslora", False) else "standard"
    return {"r": config["r"], "alpha": config["lora_alpha"], "scaling": scaling}


def _delora_fields(cfg: Any, ranks: dict[str, int], targets: Any) -> dict[str, Any]:
    lora = _lora_fields(cfg, ranks, targets)
    return {"r": lora["r"], "rank_pattern": lora["rank_pattern"], "delora_lambda": cfg.lambda0}


def _more_reflections(tensors: Tensors, r: int) -> Tensors:
    """Two equal reflections are the identity, and in pairs along one axis exactly so."""
    u = tensors["hra_u"]  # (i, fewer)
    pad = torch.zeros(len(u), r - u.shape[1]).to(u)
    pad[:1] = 1
    return {"hra_u": torch.cat((u, pad), 1)}


PAIR = ("lora_A.weight", "lora_B.weight")
KINDS = {
    "lora": Kind(
        peft_type="LORA",
        tensors=PAIR,
        write=_write_factors,
        read=lambda site, t: {"lora_A": t[PAIR[0]], "lora_B": t[PAIR[1]]},
        fields=_lora_fields,
        settings=_lora_settings,
        flags={"use_dora": False},
        rank=lambda t: len(t[PAIR[0]]),
    ),
    "dora": Kind(
        peft_type="LORA",
        tensors=(*PAIR, "lora_magnitude_vector"),
        write=lambda site: {
            PAIR[0]: site.lora_A,
            PAIR[1]: site.scale * site.lora_B,
            "lora_magnitude_vector": _magnitude(site),
        },
        read=lambda site, t: {"lora_A": t[PAIR[0]], "lora_B": t[PAIR[1]], "lora_delta": _read_magnitude(site, t)},
        fields=_lora_fields,
        settings=_lora_settings,
        flags={"use_dora": True},
        rank=lambda t: len(t[PAIR[0]]),
    ),
    "delora": Kind(
        peft_type="DELORA",
        tensors=("delora_A", "delora_B", "delora_lambda", "delora_w_norm"),
        write=lambda site: {
            "delora_A": site.lora_A,
            "delora_B": site.lora_B,
            "delora_lambda": site.lora_lambda,
            "delora_w_norm": site.basis_w,
        },
        read=_read_delora,
        fields=_delora_fields,
        settings=lambda config: {"r": config["r"], "lambda0": config["delora_lambda"]},
        rank=lambda t: len(t["delora_A"]),
        can_write=lambda cfg: not cfg.residual_init,
    ),
    "ia3": Kind(
        peft_type="IA3",
        tensors=("ia3_l",),
        write=lambda site: {"ia3_l": 1 + site.lora_delta.unsqueeze(1)},
        read=lambda site, t: {"lora_delta": t["ia3_l"].double().squeeze(1) - 1},
        fields=lambda cfg, ranks, targets: {"feedforward_modules": []},
        fits=lambda t: t["ia3_l"].shape[1:] == (1,),
    ),
    "ia3_ff": Kind(
        peft_type="IA3",
        tensors=("ia3_l",),
        write=lambda site: {"ia3_l": 1 + site.lora_delta.unsqueeze(0)},
        read=lambda site, t: {"lora_delta": t["ia3_l"].double().squeeze(0) - 1},
        fields=lambda cfg, ranks, targets: {"feedforward_modules": targets},
        fits=lambda t: t["ia3_l"].dim() == 2 and t["ia3_l"].shape[0] == 1,
    ),
    "hra": Kind(
        peft_type="HRA",
        tensors=("hra_u",),
        write=lambda site: {"hra_u": site.lora_U.T},
        read=lambda site, t: {"lora_U": t["hra_u"].T},
        fields=lambda cfg, ranks, targets: {"r": max(ranks.values()), "apply_GS": False},
        settings=lambda config: {"r": config["r"]},
        rank=lambda t: t["hra_u"].shape[-1],
        padded=_more_reflections,
    ),
    "road": Kind(
        peft_type="ROAD",
        tensors=("road_theta", "road_alpha"),
        write=lambda site: {"road_theta": site.lora_theta, "road_alpha": 1 + site.lora_scale},
        read=lambda site, t: {"lora_theta": t["road_theta"], "lora_scale": t["road_alpha"].double() - 1},
        fields=lambda cfg, ranks, targets: {"variant": f"road_{cfg.kind}", "group_size": cfg.group_size},
        settings=lambda config: {
            "kind": {"road_1": 1, "road_2": 2, "road_4": 4}[config["variant"]],
            "group_size": config["group_size"],
        },
    ),
}
