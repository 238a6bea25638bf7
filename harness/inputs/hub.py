"""Repositories of the Hugging Face hub: the commit that a revision names, and its files in the hub's own cache.

A revision such as `main` moves. It is resolved to its commit once per process, everything is read from that commit,
and the record keeps the commit. Offline, or when the hub does not answer, the last known commit is used.
"""

from __future__ import annotations

import functools
import logging
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, constants, get_cached_repo_tree, snapshot_download
from huggingface_hub import is_offline_mode as offline
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the one it uses itself

from harness.errors import BadInput, reason_of, refuse

Kind = Literal["model", "dataset"]
log = logging.getLogger("harness")
SECONDS = 10.0  # for the first answer; the library's own requests have no limit
NO_ANSWER = (httpx.TransportError, HfHubHTTPError)
ERRORS = (*NO_ANSWER, RevisionResolutionError, OSError, ValueError)  # of repositories, network and disk
# Why the hub is unreachable; tried once per process, since each attempt may take SECONDS.
_unreachable: list[str] = []


def commit_of(kind: Kind, repo: str, revision: str | None, where: str) -> str:
    """The 40 digits of the commit that `revision` (a branch, tag or commit; None is `main`) names.

    where: the place in the config, `model` or `data.train`. Raises BadInput where neither hub nor cache knows it.
    """
    revision = revision or "main"
    try:
        return _resolve(kind, repo, revision)
    except ERRORS as error:
        raise _refusal(error, kind, repo, revision, where) from None


def fetch(kind: Kind, repo: str, revision: str | None, patterns: list[str], where: str) -> Path:
    """Folder of the hub's cache with the repository's files that match `patterns`, at the commit of `revision`.

    Files in the cache are not requested again. Raises BadInput with the remedy.
    """
    commit = commit_of(kind, repo, revision, where)
    part: dict[str, Any] = {"repo_id": repo, "repo_type": kind, "revision": commit, "allow_patterns": patterns}
    cached = offline() or bool(_unreachable)
    if listing(kind, repo, commit) is not None:  # without it, the cache may be incomplete
        with suppress(LocalEntryNotFoundError):
            return Path(snapshot_download(**part, local_files_only=True))
    try:
        if not cached:
            HfApi().repo_info(repo, repo_type=kind, revision=commit, timeout=SECONDS)
            print(f"{where}: fetching {repo} at {commit[:12]}", file=sys.stderr, flush=True)
        return Path(snapshot_download(**part, local_files_only=cached))
    except ERRORS as error:
        raise _refusal(error, kind, repo, revision or "main", where) from None


def listing(kind: Kind, repo: str, commit: str) -> list[str] | None:
    """Names of all files of the repository at a commit that was fetched from before; None where it is not known."""
    try:
        return [file.path for file in get_cached_repo_tree(repo, repo_type=kind, revision=commit)]
    except CachedRepoTreeNotFoundError:
        return None


# -- parts -------------------------------------------------------------------------------------------------------------
@functools.cache
def _resolve(kind: Kind, repo: str, revision: str) -> str:
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    if not offline() and not _unreachable:
        try:
            HfApi().repo_info(repo, repo_type=kind, revision=revision, timeout=SECONDS)
        except NO_ANSWER as error:
            if 0 < _status(error) < 500:
                raise
            _unreachable.append(_reason(error))
    cached = offline() or bool(_unreachable)
    resolve = functools.partial(HfApi().resolve_revision, repo, repo_type=kind, revision=revision)
    commit = str(resolve(local_files_only=cached).resolved)  # online, it also keeps the answer for when offline
    if cached and not offline():
        log.warning("cannot reach the hub (%s): %s of %s is cached as %s", *_unreachable, revision, repo, commit)
    return commit


def _status(error: Exception) -> int:
    """Of the hub's answer; 0 if there was none."""
    return getattr(getattr(error, "response", None), "status_code", 0)


def _reason(error: Exception) -> str:
    return f"it answers {_status(error)}" if _status(error) else reason_of(error)


def _refusal(error: Exception, kind: Kind, repo: str, revision: str, where: str) -> BadInput:
    """What is wrong and what to do about it, in one line."""
    thing, key, local, folder = "data set", f"{where}.hub", f"{where}.path=<file>", "datasets/"
    if kind == "model":
        thing, key, local, folder = "model", f"{where}.id", f"{where}.id=<folder>", ""
    page = f"{constants.ENDPOINT}/{folder}{repo}"
    if isinstance(error, RevisionNotFoundError):
        expected = f"a branch, tag or commit of {repo}"
        return refuse(f"{where}.revision", "no such revision", got=revision, expected=expected, remedy=f"See {page}.")
    if isinstance(error, HFValidationError):
        what, remedy = "neither a hub id nor a path that is there", f"Give {local} or a hub id."
    elif isinstance(error, GatedRepoError):
        what = f"this {thing} is gated"
        remedy = f"Accept its licence at {page} and log in (hf auth login), or give {local}."
    elif isinstance(error, RepositoryNotFoundError):
        what = f"no such {thing} on the hub"
        remedy = f"Check the name, log in for a private one (hf auth login), or give {local}."
    elif 0 < (status := _status(error)) < 500:
        what = f"{constants.ENDPOINT} answers {status}"
        remedy = f"Check login (hf auth login), HF_ENDPOINT and proxy, or give {local}."
    elif offline():
        what = f"HF_HUB_OFFLINE is set, and {revision} is not in the cache"
        remedy = f"Run it once with network, or give {local}."
    elif _unreachable or isinstance(error, (*NO_ANSWER, LocalEntryNotFoundError)):
        reason = _unreachable[0] if _unreachable else _reason(error)
        what = f"cannot reach {constants.ENDPOINT} ({reason}), and it is not in the cache"
        remedy = f"Check network and proxy, or give {local}."
    else:
        what, remedy = f"cannot fetch it ({_reason(error)})", f"Or give {local}."
    return refuse(key, what, got=repo, remedy=remedy)
