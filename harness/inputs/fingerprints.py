"""What makes a model or data set the same: the hash of local files, or the hub's commit."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from adapters._bases import atomic_file
from harness.config.job import Job, ModelSpec, Source
from harness.errors import refuse
from harness.hashing import file_sha256, sha256
from harness.inputs.base_model import check_files, local_folder, place_of
from harness.inputs.hub import commit_of
from harness.paths import ROOT


def identities(job: Job, *, commits: bool) -> dict[str, str]:
    """Identity of the model and of each data set that a job reads, by their place in the config."""
    found = {"model": model_identity(job.model, job.cache_dir, commit=commits)}
    for where, source in sources(job).items():
        found[where] = source_identity(source, job.cache_dir, where, commit=commits)
    return found


def sources(job: Job) -> dict[str, Source]:
    """The data sets that a job reads, by their place in the config."""
    read = {"data.test": job.test_source, "data.questions": job.question_source}
    return read | ({"data.train": job.train_source} if job.trains else {})


def hub_commits(job: Job) -> dict[str, str]:
    """The commit of everything that a job takes from the hub, by its place in the config."""
    found = {}
    if local_folder(job.model) is None:
        found["model"] = commit_of("model", job.model.id, job.model.revision, "model")
    for where, source in sources(job).items():
        if source.path is None and source.hub is not None:
            found[where] = commit_of("dataset", source.hub, source.revision, where)
    return found


def at_commits(job: Job, commits: dict[str, str]) -> Job:
    """The job with the hub's repositories at the commits that a record names."""
    model = dataclasses.replace(job.model, revision=commits.get("model", job.model.revision))
    read = {"data.train": "train_source", "data.questions": "question_source", "data.test": "test_source"}
    at = {f: dataclasses.replace(getattr(job, f), revision=commits[w]) for w, f in read.items() if w in commits}
    return dataclasses.replace(job, model=model, **at)


def source_identity(source: Source, cache_dir: Path, where: str, *, commit: bool = True) -> str:
    """SHA-256 of a file's contents and column names, or hub id and commit (commit=False: revision as typed)."""
    columns = sha256(source.columns)[:8]
    if source.path is None:
        if source.hub is None:
            raise refuse(where, "neither path nor hub is given", remedy=f"Set {where}.path=<file>.")
        revision = commit_of("dataset", source.hub, source.revision, where) if commit else source.revision
        return f"hub:{source.hub}/{source.subset}/{source.split}@{revision} columns:{columns}"
    if source.path.startswith("generated:"):
        return f"sha256:{_generated_sha256(source.path, cache_dir, where)} columns:{columns}"
    file = Path(source.path) if Path(source.path).exists() else ROOT / source.path
    if not file.is_file():
        raise refuse(f"{where}.path", "no such file", got=source.path, expected="a JSON, JSONL or parquet file")
    return f"sha256:{file_sha256(file)} columns:{columns}"


def text_identity(source: str) -> str:
    """SHA-256 of the file that forgetting is measured on; generated texts by their name."""
    if source.startswith("generated:"):
        return source
    if not (ROOT / source).is_file():
        raise refuse("benchmark.forgetting_text", "no such file", got=source, expected="a text file")
    return f"sha256:{file_sha256(ROOT / source)}"


def _generated_sha256(path: str, cache_dir: Path, where: str) -> str:
    """Hash of the generated rows; remembered by the generator's own source, since making the rows takes a second."""
    sources = sorted((ROOT / "harness" / "tiny").glob("*.py"))
    key = hashlib.sha256(b"".join(f.read_bytes() for f in sources)).hexdigest()[:16]
    file = cache_dir / "generated" / f"{path.removeprefix('generated:')}-{key}"
    if not file.exists():
        from harness.inputs.rows import read_generated

        digest = sha256(read_generated(path.removeprefix("generated:"), where))
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as temporary:
            temporary.write_text(digest)
    return file.read_text()


def model_identity(spec: ModelSpec, cache_dir: Path, *, commit: bool = True) -> str:
    """SHA-256 over the files that make a local model, or hub id and commit (commit=False: revision as typed)."""
    folder = local_folder(spec)
    if folder is None:
        file = f"/{spec.gguf_file}" if spec.gguf_file else ""
        revision = commit_of("model", place_of(spec), spec.revision, "model") if commit else spec.revision
        return f"hub:{place_of(spec)}{file}@{revision}"
    check_files(spec, [f.name for f in folder.iterdir()], str(folder))
    kept = [folder / spec.gguf_file] if spec.gguf_file else sorted(folder.glob("*.safetensors"))
    kept += [f for name in ("config.json", "tokenizer.json", "tokenizer_config.json") if (f := folder / name).exists()]
    return "sha256:" + sha256([[f.name, file_sha256(f)] for f in kept])
