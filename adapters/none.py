"""The base model as it is: the floor every adapter is measured against.

y' = y. Identity at t=0: trivially, nothing is attached. Every parameter is frozen while attached.
"""

from __future__ import annotations

from dataclasses import dataclass

from adapters._contract import Config, Variant


@dataclass(frozen=True, kw_only=True)
class NoneConfig(Config):
    """Nothing to choose; `targets` is accepted so that every config can be treated alike, and ignored."""


class NoAdapter(Variant):
    Config = NoneConfig
