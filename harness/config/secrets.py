"""Keeps credentials typed on a command line out of records."""

from __future__ import annotations

import re
from typing import Any

MASK = "***"
KEY = r"(?<![a-z])(?:token|secret|password|passwd|api_?key|access_?key)(?![a-z])"  # not max_new_tokens
PATTERNS = (
    re.compile(r"(://)[^/\s@\"']+(?=@)"),  # https://user:token@host
    re.compile(r"\b(hf_|wandb_v1_|sk-|gh[pousr]_|github_pat_)[\w-]{8,}"),
    re.compile(rf"({KEY}[\"']?\s*[=:]\s*)[^\s,}}\]]+", re.IGNORECASE),
)


def masked(value: Any) -> Any:
    """`value` (of JSON's types) with every text in it that looks like a credential replaced by ***."""
    if isinstance(value, dict):
        return {key: masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    if isinstance(value, str):
        for pattern in PATTERNS:
            value = pattern.sub(lambda match: match[1] + MASK, value)
    return value
