"""Where curves and results also go, checked before anything is trained; the tracker itself is harness/tracking.py."""

from __future__ import annotations

import netrc
import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from harness.bad_input import refuse

MODES = ("offline", "online")


@dataclass(frozen=True)
class Tracking:
    """The name of a tracker, or `none`."""

    name: str
    mode: str | None
    project: str | None


def checked(tracking: Tracking) -> Tracking:
    """Raises BadInput for a mode that there is not, or that needs a login, before anything is trained."""
    if tracking.name == "none":
        if tracking.mode is not None:
            raise refuse("tracking.mode", "nothing is tracked", got=tracking.mode, remedy="Add tracking=wandb.")
        return tracking
    if tracking.mode not in MODES:
        raise refuse("tracking.mode", "unknown mode", got=tracking.mode, expected=" or ".join(MODES))
    if tracking.mode == "online" and not _logged_in():
        remedy = "Run `wandb login`, or leave it offline and upload later with `wandb sync`."
        raise refuse("tracking.mode", "no login for wandb on this machine", got="online", remedy=remedy)
    return tracking


def _logged_in() -> bool:
    """Whether wandb would find an API key: asked here, since wandb itself would prompt for one."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
