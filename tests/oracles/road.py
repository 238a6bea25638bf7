"""RoAd (arXiv 2409.00119), eq. 4."""

from __future__ import annotations

import torch

from tests.dense import Dense, Layer

COUNT = 86_016
SMALL = {"group_size": 4}
SETTINGS = [{"kind": 2}, {"kind": 4}]
PEFT = {
    "road 1": ("RoadConfig", {"variant": "road_1", "group_size": 4}),
    "road 2": ("RoadConfig", {"variant": "road_2", "group_size": 8}),
    "road 4": ("RoadConfig", {"variant": "road_4", "group_size": 4}),
}


def dense(L: Layer) -> Dense:
    """Output by output: element n of a group's first half pairs with element n of its second half."""
    o, group, kind = L.W.shape[0], L.cfg.group_size, L.cfg.kind
    half = group // 2
    theta, alpha = L.t["lora_theta"], 1 + L.t["lora_scale"]
    rows = []
    for n in range(o):
        g, place = divmod(n, group)
        own = {1: g * half + place % half, 2: n, 4: 2 * g * group + place}[kind]
        other = own + group if kind == 4 else own
        first = place < half
        partner = n + half if first else n - half
        sine = alpha[other] * theta[other].sin()
        row = torch.zeros(o, dtype=L.W.dtype)
        row = row.index_put((torch.tensor([n]),), alpha[own] * theta[own].cos())
        rows.append(row.index_put((torch.tensor([partner]),), -sine if first else sine))
    R = torch.stack(rows)
    return R @ L.W, None if L.b is None else R @ L.b
