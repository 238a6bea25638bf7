"""Records of runs that never ran: questions of differing difficulty, variants and seeds of differing skill."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.evaluation.metrics import to_bits, to_nats
from harness.hashing import sha256
from harness.records.record import SCHEMA_VERSION
from harness.report.names import usual_adapter, usual_protocol
from harness.tiny.problems import PROMPT

SHARED = {"benchmark": "tiny", "model": "sha256:m", "data.test": "sha256:t", "prompt": PROMPT, "valid_size": 500}
STEPS = usual_protocol("tiny")["steps"]
CALIBRATED = ("eva", "antipasto_asvd", "antipasto_corda")  # need it
TRAINED = {"data.train": "sha256:d", "steps": STEPS, "batch_size": 16, "weight_decay": 0.1}


def record(
    variant: str = "lora",
    seed: int | None = 0,
    lr: float | None = 0.005,
    *,
    skill: float = 0.0,
    questions: int = 300,
    asked: str = "q",
    scorer: int = 1,
    status: str = "done",
    params: int = 65536,
    model: str = "tiny",
    quantization: str = "none",
    peak: str = "peak_rss_gb",
    rank: int | None = None,
    right: list[bool] | None = None,
    **science: Any,
) -> dict[str, Any]:
    """skill: logits above a coin's. Questions and validation questions are the same for every record of one `asked`.

    right: which test questions were answered correctly, instead of drawing them.
    rank: the variant's own unless given.
    """
    trained = lr is not None
    rank = usual_adapter(variant, "tiny").get("r", 8) if rank is None else rank
    name = (
        f"tiny-{model}__{variant}__r{rank}__lr{lr:g}__{quantization}__s{STEPS}"
        if trained
        else f"tiny-{model}__{variant}__{quantization}"
    )
    own = {"variant": variant, "quantization": quantization, "scorer_version": 1, "results_version": 1} | SHARED
    own |= (
        TRAINED | {"lr": lr, "seed": seed, "adapter.r": rank, "calibration_examples": 128 * (variant in CALIBRATED)}
        if trained
        else {}
    )
    own |= science
    odd = f"__{zlib.crc32(json.dumps(science, sort_keys=True).encode()):08x}" if science else ""
    seen = np.random.default_rng([*variant.encode(), seed or 0, round(1e6 * (lr or 0))])
    made: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "run_id": f"{name}__seed{seed}{odd}" if trained else f"{name}{odd}",
        "benchmark": "tiny",
        "model": model,
        "variant": variant,
        "rank": rank if trained else None,
        "lora_rank": None,
        "lr": lr,
        "quantization": quantization,
        "seed": seed,
        "steps": STEPS if trained else 0,
        "status": status,
        "trainable_params": params if trained else 0,
        "science": own,
        "science_hash": sha256(own),
        "code_hash": f"code of {variant}",
        "engine_hash": "engine",
        "results_version": 1,
        "provenance": {"device": "AMD EPYC", "cuda": None, "threads": 2, "dirty": False},
    }
    if status != "done":
        return made
    for split, size in (("valid", 100), ("test", questions)):
        hard = np.random.default_rng([size, *asked.encode()]).normal(0, 1.3, size)
        chance = 1 / (1 + np.exp(-(hard + skill + 0.1 * seen.normal())))
        drawn = [bool(b) for b in seen.random(size) < chance]
        made[split] = scores(drawn if right is None or split == "valid" else right, asked, scorer)
    made |= {
        "adapter_file_bytes": 4 * made["trainable_params"] + 900,
        "memory": {
            p: {peak: g} for p, g in (("attach", 0.5), ("train", 0.9), ("eval", 0.7)) if trained or p != "train"
        },
        "cost": {"attach_seconds": 0.02 + seen.random() / 20, "added_macs_per_token": float(made["trainable_params"])},
        "health": {"moved": True if trained else None, "no_base_gradient": True, "base_unchanged": True, "still": []},
        "forgetting": {"nats": 0.02 * seen.random() if trained else 0.0, "nats_off": 2.0, "texts_sha256": "f"},
        "seconds": 60.0 + seen.random(),
    }
    if trained:
        speed = 4000.0 + 200 * seen.random()
        made["train"] = {"loss_first": 1.5, "loss_last": 0.5, "tokens_per_s": speed, "tokens": 200_000}
        made["train"]["seconds"] = 200_000 / speed
    return made


def scores(right: list[bool], asked: str = "q", scorer: int = 1) -> dict[str, Any]:
    """A record's `test` or `valid`."""
    return {
        "accuracy": sum(right) / len(right),
        "correct": sum(right),
        "total": len(right),
        "flexible_accuracy": min(1.0, sum(right) / len(right) + 0.02),
        "truncated": 0,
        "no_answer": 1,
        "questions_hash": asked,
        "correct_bits": to_bits(right),
        "scorer_version": scorer,
    }


def responses(nats: Sequence[float], tokens: int) -> dict[str, Any]:
    """The part of `test` or `valid` about the reference responses: nats of each question, label tokens of all."""
    return {"response_loss": sum(nats) / tokens, "response_tokens": tokens, "response_nats": to_nats(nats)}


def strata(right: list[bool]) -> dict[str, dict[str, Any]]:
    """A record's `strata`: the first half of the questions `known`, the others `new`."""
    half = len(right) // 2
    parts = {"known": right[:half], "new": right[half:]}
    return {n: {"accuracy": sum(p) / len(p), "correct": sum(p), "total": len(p)} for n, p in parts.items()}


def write(folder: Path, *records: dict[str, Any]) -> Path:
    """<folder>/<id>/result.json and metrics.jsonl of every record."""
    for r in records:
        place = folder / r["run_id"]
        place.mkdir(parents=True, exist_ok=True)
        (place / "result.json").write_text(json.dumps(r))
        if r["lr"] is not None:
            steps = ({"step": n, "loss": 0.5 + math.exp(-n / 80) + 0.05 * math.sin(n)} for n in range(1, 401))
            (place / "metrics.jsonl").write_text("".join(json.dumps(s) + "\n" for s in steps))
    return folder


SKILLS = {"lora": 0.0, "dora": 0.05, "pissa": 0.1, "hra": -0.4, "ia3": -0.9, "antipasto": -0.7, "antipasto_dplr": 0.6}
PARAMS = {
    "lora": 65536,
    "dora": 66816,
    "pissa": 65536,
    "hra": 32768,
    "ia3": 1536,
    "antipasto": 512,
    "antipasto_dplr": 4608,
}
RATES = (1e-3, 3e-3, 1e-2)


def study(seeds: int = 5, questions: int = 300) -> list[dict[str, Any]]:
    """Floor, ceiling, seven variants: three rates on seed 0, further seeds at 3e-3; ia3 diverges at the largest."""
    made = [record("none", None, None, skill=-2.5, questions=questions)]
    made += [record("full", s, 1e-3, skill=1.2, params=3_100_000, questions=questions) for s in range(seeds)]
    for variant, skill in SKILLS.items():
        for lr in RATES:
            lost = variant == "ia3" and lr == 1e-2
            rising = 0.6 if variant == "antipasto_dplr" else -0.6  # dplr is best at the grid's edge
            worth = skill + {1e-3: -0.6, 3e-3: 0.0, 1e-2: rising}[lr]
            best = 1e-2 if variant == "antipasto_dplr" else 3e-3
            more = {"params": PARAMS[variant], "questions": questions, "status": "diverged" if lost else "done"}
            made += [record(variant, s, lr, skill=worth, **more) for s in range(seeds if lr == best else 1)]
    return made
