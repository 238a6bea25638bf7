"""Identity of a model or data set, whatever its path: the hash of its files, or the hub's commit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.config.job import Job
from harness.config.schema import Model, Source
from harness.errors import refuse
from harness.files import cached_folder
from harness.hashing import file_sha256, sha256
from harness.inputs.hub import commit_of
from harness.inputs.model_files import check_files, check_indices, files_read, local_folder, place_of
from harness.inputs.rows import local_file, read_generated
from harness.paths import ROOT

PLATINUM = "data.platinum"  # place in the config of the corrected references


@dataclass(frozen=True)
class Fingerprint:
    """typed: hash of the files, or the hub's id at the revision as typed. content: the same, but at its commit."""

    typed: str
    resolve: Callable[[], str] | None = field(default=None, compare=False)  # asks the hub

    @cached_property
    def content(self) -> str:
        """Raises BadInput where the hub's commit cannot be known."""
        return self.resolve() if self.resolve is not None else self.typed


Fingerprints = dict[str, Fingerprint]  # by place in the config: model, data.train, data.questions, data.test, …


class Fingerprinter:
    """Fingerprints of models and data sets, each computed once: one of these serves a run, or all jobs of a sweep."""

    def __init__(self) -> None:
        self._known: dict[str, Fingerprint] = {}

    def of(self, job: Job) -> Fingerprints:
        """Fingerprints of all inputs of a job, by place. Raises BadInput for a missing one."""
        sources = job.sources | ({PLATINUM: job.platinum} if job.platinum.is_set else {})
        prints = {w: self._once(s, source_fingerprint, job.cache_dir, w) for w, s in sources.items()}
        return {"model": self._once(job.model, model_fingerprint)} | prints

    def _once(self, what: Model | Source, compute: Callable[..., Fingerprint], *more: Any) -> Fingerprint:
        if repr(what) not in self._known:
            self._known[repr(what)] = compute(what, *more)
        return self._known[repr(what)]


def hub_commits(job: Job) -> dict[str, str]:
    """The commit of everything that a job takes from the hub, by its place in the config."""
    commits = {}
    if local_folder(job.model) is None:
        commits["model"] = commit_of("model", job.model.id, job.model.revision, "model")
    for where, source in job.sources.items():
        if source.path is None and source.hub is not None:
            commits[where] = commit_of("dataset", source.hub, source.revision, where)
    return commits


def at_commits(job: Job, commits: dict[str, str]) -> Job:
    """The job with the hub's repositories at the commits that a record names."""
    fields = {"model": "model", "data.train": "train_source"}
    fields |= {"data.questions": "question_source", "data.test": "test_source"}
    at = {
        fields[w]: dataclasses.replace(getattr(job, fields[w]), revision=c) for w, c in commits.items() if w in fields
    }
    return dataclasses.replace(job, **at)


def source_fingerprint(source: Source, cache_dir: Path, where: str) -> Fingerprint:
    """Of a data set: a file's contents, or a hub data set, and the columns that are read from it.

    The default of `stratum` does not count: earlier configs do not name it, and their runs are still the same.
    """
    columns = sha256({ours: name for ours, name in source.columns.items() if not ours == name == "stratum"})[:8]
    hub = source.hub
    if source.path is not None:
        if source.path.startswith("generated:"):
            digest = _generated_sha256(source.path, cache_dir, where)
        else:
            digest = file_sha256(local_file(source.path, where))
        return Fingerprint(f"sha256:{digest} columns:{columns}")
    if hub is None:
        raise refuse(where, "no path and no hub id", remedy=f"Set {where}.path=<file>.")

    def at(revision: str | None) -> str:
        return f"hub:{hub}/{source.subset}/{source.split}@{revision} columns:{columns}"

    return Fingerprint(at(source.revision), lambda: at(commit_of("dataset", hub, source.revision, where)))


def text_fingerprint(source: str) -> str:
    """SHA-256 of the file that forgetting is measured on; generated texts by their name."""
    if source.startswith("generated:"):
        return source
    if not (ROOT / source).is_file():
        raise refuse("benchmark.forgetting_text", "no such file", got=source, expected="a text file")
    return f"sha256:{file_sha256(ROOT / source)}"


def _generated_sha256(path: str, cache_dir: Path, where: str) -> str:
    """Hash of the generated rows; cached by the generator's source, since generating them takes seconds."""
    split, generator = path.removeprefix("generated:"), sorted((ROOT / "harness" / "tiny").glob("*.py"))
    key = sha256([split, *map(file_sha256, generator)])[:16]

    def fill(folder: Path) -> None:
        (folder / "sha256").write_text(sha256(read_generated(split, where)))

    return (cached_folder(cache_dir / "generated", key, fill) / "sha256").read_text()


def model_fingerprint(spec: Model) -> Fingerprint:
    """Of a model: every file of a folder that loading reads, by name and contents, or a hub repository at a commit."""
    folder = local_folder(spec)
    if folder is not None:
        check_files(spec, [f.name for f in folder.iterdir()], str(folder))
        check_indices(folder, str(folder))
        return Fingerprint("sha256:" + sha256([[f.name, file_sha256(f)] for f in files_read(folder, spec)]))
    place = place_of(spec)
    name = f"hub:{place}{f'/{spec.gguf_file}' if spec.gguf_file else ''}@"
    return Fingerprint(f"{name}{spec.revision}", lambda: name + commit_of("model", place, spec.revision, "model"))
