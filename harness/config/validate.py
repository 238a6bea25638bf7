"""From a composed Hydra config to a validated Job. Every refusal is a `BadInput` with one line."""

from __future__ import annotations

import dataclasses
import logging
import math
import netrc
import os
from typing import Any
from urllib.parse import urlsplit

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

import adapters as ad
from harness.config.job import Job
from harness.config.keys import refuse_unknown_keys
from harness.config.schema import Model, Source, Tracking
from harness.device import usable_device
from harness.errors import BadInput, integer, number, reason_of, refuse
from harness.paths import CONF, under_root

log = logging.getLogger("harness")


def job_from(cfg: DictConfig) -> Job:
    """Validates a composed config. Raises BadInput with one line for the first thing that is wrong."""
    refuse_unknown_keys(cfg)
    try:
        c: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = error.full_key or "config"
        if isinstance(error, MissingMandatoryValue):
            raise refuse(key, "missing", expected=f"{key}=<value>") from None
        raise refuse(key, reason_of(error)) from None
    variant, adapter, trained = _adapter(c)
    quantization = c["quantization"]["name"]
    if quantization != "none" and not ad.VARIANTS[variant].supports_quantized:
        raise refuse("quantization", f"{variant} cannot train a quantized base", got=quantization, expected="none")
    bench, train, evaluation = c["benchmark"], c["train"], c["eval"]
    lr, chosen = _learning_rate(c, variant, trained)
    steps = integer("steps", _or(c["steps"], bench["steps"]), lo=1)
    _check_names(c)
    if c["model"]["dtype"] not in ad.DTYPES:
        raise refuse("model.dtype", "unknown dtype", got=c["model"]["dtype"], expected=f"one of {', '.join(ad.DTYPES)}")
    if bench["prompt"].count("{query}") != 1:
        raise refuse("benchmark.prompt", "lacks the question", got=bench["prompt"], expected="exactly one {query}")
    return Job(
        benchmark=bench["name"],
        model=Model(**c["model"]),
        quantization=quantization,
        train_source=Source(**c["data"]["train"]),
        question_source=Source(**c["data"]["questions"]),
        test_source=Source(**c["data"]["test"]),
        variant=variant,
        adapter=adapter,
        lr=lr,
        lr_chosen=chosen,
        steps=steps if lr is not None else 0,
        batch_size=integer("batch_size", _or(c["batch_size"], bench["batch_size"]), lo=1),
        seed=integer("seed", c["seed"], lo=0, hi=2**63 - 1),
        max_length=integer("benchmark.max_length", bench["max_length"], lo=8),
        prompt=bench["prompt"],
        valid_size=integer("benchmark.valid_size", bench["valid_size"], lo=1),
        forgetting_text=bench["forgetting_text"],
        weight_decay=number("train.weight_decay", train["weight_decay"], lo=0),
        warmup=number("train.warmup", train["warmup"], lo=0, hi=1),
        clip=number("train.clip", train["clip"], above=0),
        calibration_examples=_calibration(variant, adapter, train),
        compile=train["compile"],
        eval_limit=integer("eval.limit", evaluation["limit"], lo=1, optional=True),
        eval_batch_size=integer("eval.batch_size", _or(evaluation["batch_size"], bench["eval_batch_size"]), lo=1),
        max_new_tokens=integer("eval.max_new_tokens", _or(evaluation["max_new_tokens"], bench["max_new_tokens"]), lo=1),
        **_where_and_how(c),
        composed=c,
    )


# -- parts -------------------------------------------------------------------------------------------------------------
def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _adapter(c: dict[str, Any]) -> tuple[str, ad.Config, dict[str, Any]]:
    """Variant name, its Config with top-level axes applied, and the benchmark's defaults of the variant's YAML."""
    fields = dict(c["variant"])
    name = fields.pop("name", None)
    by_benchmark = fields.pop("defaults_by_benchmark", {})
    if name not in ad.VARIANTS:
        raise refuse("variant", "unknown variant", got=name, expected=f"one of {', '.join(ad.VARIANTS)}")
    config_class = ad.VARIANTS[name].Config
    known = {f.name for f in dataclasses.fields(config_class)}
    for key in fields:
        if key not in known:
            raise refuse(f"variant.{key!s}", f"unknown key of {name}", expected=f"one of {', '.join(sorted(known))}")
    for key, field in (("rank", "r"), ("lora_rank", "lora_rank"), ("alpha", "alpha"), ("targets", "targets")):
        value = c[key]
        if value is not None and "rank" in key:
            integer(key, value, lo=1)
        if value is not None and field in known:
            fields[field] = value
        elif value is not None:
            log.warning("%s=%s is ignored: %s has no %s", key, value, name, field)
    targets = fields.get("targets")
    for pattern in [targets] if isinstance(targets, str) else targets or ():
        if isinstance(pattern, str) and not ad.harmless(pattern):
            expected = "no nested repetition, few of * + ? |"
            raise refuse("targets", "regex could backtrack forever", got=pattern[:80], expected=expected)
    try:
        return name, config_class(**fields), by_benchmark.get(c["benchmark"]["name"], {})
    except ValueError as error:
        raise BadInput(f"variant={name}: {error}") from None


def _calibration(variant: str, adapter: ad.Config, train: dict[str, Any]) -> int:
    examples = integer("train.calibration_examples", train["calibration_examples"], lo=1)
    need = ad.VARIANTS[variant].calibration(adapter)
    if train["calibrate"] and need is ad.Calibration.unused:
        log.warning("train.calibrate=true is ignored: %s reads no calibration data", variant)
    reads = need is ad.Calibration.required or (need is ad.Calibration.optional and train["calibrate"])
    return examples if reads else 0


def _learning_rate(c: dict[str, Any], variant: str, defaults: dict[str, Any]) -> tuple[float | None, str]:
    kind = ad.VARIANTS[variant]
    scale = number("lr_scale", c["lr_scale"], above=0)
    if not kind.trains_base and not ad.variant_has_sites(kind):
        if c["lr"] is not None:
            log.warning("lr=%s is ignored: %s trains nothing", c["lr"], variant)
        return None, "default"
    if c["lr"] == "tuned":
        return math.nan, "tuned"  # records/tuning.py chooses it once all other settings are known
    if c["lr"] is None and "lr" not in defaults:
        remedy = f"Give lr=…, or add it to conf/variant/{variant}.yaml."
        raise refuse("lr", f"{variant} has no default for benchmark {c['benchmark']['name']}", remedy=remedy)
    is_given = c["lr"] is not None
    where = "lr" if is_given else f"variant {variant}: lr"
    lr = number(where, c["lr"] if is_given else defaults["lr"], above=0)
    if scale != 1:
        lr = float(f"{number(f'{where} times lr_scale', lr * scale, above=0):.12g}")  # 0.01 · 0.3 is 0.003
    return lr, "given" if is_given else "default"


def _where_and_how(c: dict[str, Any]) -> dict[str, Any]:
    """The fields of a Job that do not affect its result."""
    return {
        "micro_batch": integer("train.micro_batch", c["train"]["micro_batch"], lo=1, optional=True),
        "checkpoint_every": integer("train.checkpoint_every", c["train"]["checkpoint_every"], lo=1),
        "gradient_checkpointing": c["train"]["gradient_checkpointing"],
        "eval_graphs": _graphs(c),
        "eval_repeat": integer("eval.repeat", c["eval"]["repeat"], lo=1),
        "platinum": Source(**c["data"]["platinum"]),
        "tracking": _checked(Tracking(**c["tracking"])),
        "device": usable_device(c["device"]),
        "share_gpu": c["share_gpu"],
        "threads": integer("threads", c["threads"], lo=1, optional=True),
        "runs_dir": under_root(c["runs_dir"]),
        "cache_dir": under_root(c["cache_dir"]),
        "force": c["force"],
        "dry_run": c["dry_run"],
    }


def _graphs(c: dict[str, Any]) -> bool:
    """Raises BadInput where decoding cannot be captured in CUDA graphs."""
    graphs: bool = c["eval"]["graphs"]
    if graphs and (not usable_device(c["device"]).startswith("cuda") or c["quantization"]["name"] == "8bit"):
        what = "needs a CUDA device and a base that is not 8-bit"
        got = f"device={c['device']} quantization={c['quantization']['name']}"
        raise refuse("eval.graphs", what, got=got, remedy="Drop eval.graphs=true.")
    return graphs


def _check_names(c: dict[str, Any]) -> None:
    """Names enter run ids and select code, so each must match a file in conf/."""
    for group in ("benchmark", "model", "quantization", "tracking"):
        options, name = sorted(p.stem for p in (CONF / group).glob("*.yaml")), c[group]["name"]
        if name not in options:
            what, expected = f"no such file in conf/{group}", f"one of {', '.join(options)}"
            raise refuse(f"{group}.name", what, got=name, expected=expected)


def _checked(tracking: Tracking) -> Tracking:
    """Raises BadInput for an unknown mode, or for `online` without a login."""
    if tracking.name == "none" and tracking.mode is not None:
        raise refuse("tracking.mode", "nothing is tracked", got=tracking.mode, remedy="Add tracking=wandb.")
    if tracking.name != "none" and tracking.mode not in ("offline", "online"):
        raise refuse("tracking.mode", "unknown mode", got=tracking.mode, expected="offline or online")
    if tracking.mode == "online" and not _logged_in():
        remedy = "Run `wandb login`, or leave it offline and upload later with `wandb sync`."
        raise refuse("tracking.mode", "no login for wandb on this machine", got="online", remedy=remedy)
    return tracking


def _logged_in() -> bool:
    """Whether wandb would find an API key. Checked here because wandb would prompt for one."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
