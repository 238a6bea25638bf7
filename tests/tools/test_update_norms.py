"""Norms of an adapter's update against its formula: factors, and a block and a core with known singular values."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import adapters as ad
from adapters._weights import dense_weight
from harness.run import run
from tools import update_norms
from tools._shared import perturb
from tools.update_norms import norms

CONFIGS = [
    ad.AntiPaSTOArrowConfig(r=8, block=5),
    ad.AntiPaSTODPLRConfig(r=8, lora_rank=2),
    ad.AntiPaSTOConfig(r=8),
    ad.LoRAConfig(r=2, alpha=4),
]


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda c: type(c).__name__)
def test_norms_are_those_of_the_factors(model: Any, cfg: ad.Config) -> None:
    """numpy's singular values of PQ; the model is the same afterwards."""
    with ad.attach(model, cfg, seed=1) as handle:
        perturb(handle.trainable().values(), 0.3)
        found = norms(model)
        with torch.no_grad():
            deltas = [(p.double() @ q.double()).numpy() for p, q in (s.factors() for s in handle.sites.values())]
        weights = [dense_weight(model.get_submodule(n)).double().numpy() for n in handle.sites]
        cores = []
        for site in handle.sites.values():
            own = {k: p.detach().double().numpy() for k, p in site.parameters().items()}
            if "lora_M" in own:
                cores.append(own["lora_M"])
            elif "lora_A" in own:
                cores.append(own["lora_B"] @ own["lora_A"])
    import numpy as np

    assert found["update"] == pytest.approx([np.linalg.svd(d)[1][0] for d in deltas], rel=1e-4)
    ratios = [np.linalg.norm(d) / np.linalg.norm(w) for d, w in zip(deltas, weights, strict=True)]
    assert found["share"] == pytest.approx(ratios, rel=1e-4)
    assert found["core"] == pytest.approx([np.linalg.svd(c)[1][0] for c in cores], rel=1e-5)
    assert bool(found["core"]) == hasattr(cfg, "block") | hasattr(cfg, "lora_rank") | isinstance(cfg, ad.LoRAConfig)


def test_finished_runs_are_added_once(overrides: list[str], small_job: Any, tmp_path: Any, monkeypatch: Any) -> None:
    job = small_job("variant=antipasto_arrow", "rank=8", "variant.block=3")
    run(job)
    monkeypatch.setattr("tools.update_norms.jobs_of", lambda *_: [job, small_job("seed=9")])
    words = [f"runs_dir={job.runs_dir}", f"out={tmp_path / 'norms.json'}"]
    update_norms.main(words)
    (one,) = update_norms.json.loads((tmp_path / "norms.json").read_text()).values()
    assert len(one["update"]) == len(one["core"]) == 4  # q and v of two layers
    assert all(value > 0 for key in ("update", "share", "core") for value in one[key])
    monkeypatch.setattr(update_norms, "norms_of_run", lambda *_: pytest.fail("computed again"))
    update_norms.main(words)
