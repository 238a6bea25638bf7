"""What a job reads, and at which commit where it comes from the hub."""

from __future__ import annotations

import dataclasses

from harness import hub
from harness.job import Job, Source
from harness.models import local_folder


def sources(job: Job) -> dict[str, Source]:
    """The data sets that a job reads, by their place in the config."""
    read = {"data.test": job.test_source, "data.questions": job.question_source}
    return read | ({"data.train": job.train_source} if job.trains else {})


def hub_commits(job: Job) -> dict[str, str]:
    """The commit of everything that a job takes from the hub, by its place in the config."""
    found = {}
    if local_folder(job.model) is None:
        found["model"] = hub.commit_of("model", job.model.id, job.model.revision, "model")
    for where, source in sources(job).items():
        if source.path is None and source.hub is not None:
            found[where] = hub.commit_of("dataset", source.hub, source.revision, where)
    return found


def at_commits(job: Job, commits: dict[str, str]) -> Job:
    """The job with the hub's repositories at the commits that a record names."""
    model = dataclasses.replace(job.model, revision=commits.get("model", job.model.revision))
    read = {"data.train": "train_source", "data.questions": "question_source", "data.test": "test_source"}
    at = {f: dataclasses.replace(getattr(job, f), revision=commits[w]) for w, f in read.items() if w in commits}
    return dataclasses.replace(job, model=model, **at)
