"""Records of version 1 with today's stamps: hashes of code and settings by today's rules, and not a number changed.

python -m tools.restamp [write=true]    shows what would change, a line per record; write=true does it
    runs_dir=runs/published             where the records are

A record is refused, and the exit code is 1, unless its old hashes can be verified: the code at its commit (or at any
commit of this clone) by the old rule, its settings, and its model and data as they are today by the old rule.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from harness.cli.arguments import parse
from harness.errors import refuse
from harness.hashing import file_sha256, sha256
from harness.paths import ROOT, under_root
from harness.records.ids import code_hash
from harness.records.record import SCHEMA_VERSION, Record, checked
from harness.records.store import write_record

STAMPS = ("schema_version", "results_version", "engine_hash", "science", "science_hash", "code_hash")


@dataclass
class Arguments:
    runs_dir: str = "runs/published"
    write: bool = False


def main(argv: list[str]) -> None:
    from harness.config.schema import register

    args = parse(Arguments, argv, __doc__ or "")
    register()
    refused = 0
    with tempfile.TemporaryDirectory() as scratch:
        for file in sorted(under_root(args.runs_dir).glob("*/result.json")):
            try:
                print(restamp(file, Path(scratch), write=args.write))
            except SystemExit as error:
                print(error, file=sys.stderr)
                refused += 1
    if refused:
        raise SystemExit(f"{refused} record(s) refused; they are unchanged.")


def restamp(file: Path, scratch: Path, *, write: bool) -> str:
    """Restamps one record and returns what changed. Raises BadInput for what cannot be verified."""
    text = file.read_text(encoding="utf-8")
    old, name = json.loads(text), file.parent.name
    if old["schema_version"] != 1:
        return f"{name}: version {old['schema_version']} already"
    if sha256(old["science"]) != old["science_hash"]:
        raise refuse(name, "its settings are not those that were hashed", got=old["science_hash"])
    science = old["science"] | _fingerprints(file.parent, old) | {"results_version": 1}
    new = old | {"schema_version": SCHEMA_VERSION, "results_version": 1, "engine_hash": None, "science": science}
    new |= {"science_hash": sha256(science), "code_hash": _new_code_hash(name, old, scratch)}
    new = cast(dict[str, Any], checked(new))
    if _dump(old) != text or _dump(_unstamped(new)) != _dump(_unstamped(old)):
        raise refuse(name, "writing it again would change more than its stamps")
    if write:
        write_record(file.parent, cast(Record, new))
    changed = [k for k in science if k != "results_version" and science[k] != old["science"][k]]
    hashes = ", ".join(f"{k} {old[k][:8]} -> {new[k][:8]}" for k in ("code_hash", "science_hash"))
    return f"{name}: {hashes}; fingerprints changed: {', '.join(changed) or 'none'}; all else byte for byte the same"


def _dump(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=1) + "\n"


def _unstamped(record: dict[str, Any]) -> dict[str, Any]:
    """All but the stamps; of the settings, all but the fingerprints."""
    settings = {k: v for k, v in record["science"].items() if k not in (*PLACES, "results_version")}
    return {k: v for k, v in record.items() if k not in STAMPS} | {"settings": settings}


# -- code --------------------------------------------------------------------------------------------------------------
def _new_code_hash(name: str, old: dict[str, Any], scratch: Path) -> str:
    """Today's hash of the sources whose old hash the record holds."""
    own = old["provenance"]["commit"]
    for commit in (own, *_git("log", "--format=%H", "--", "adapters").decode().split()):
        folder = _sources(commit, scratch)
        if (
            folder
            and (folder / f"{old['variant']}.py").exists()
            and _old_hash(folder, old["variant"]) == old["code_hash"]
        ):
            return code_hash(old["variant"], folder)
    raise refuse(name, "its code_hash is that of no commit in this clone", got=old["code_hash"])


def _old_hash(folder: Path, variant: str) -> str:
    """The rule of version 1: names and bytes of the variant's file and of adapters/_*.py."""
    files = [folder / f"{variant}.py", *sorted(folder.glob("_*.py"))]
    return hashlib.sha256(b"".join(f.name.encode() + f.read_bytes() for f in files)).hexdigest()[:16]


@functools.cache
def _sources(commit: str, scratch: Path) -> Path | None:
    """adapters/ at a commit; None where this clone does not know it."""
    archive = _git("archive", commit, "adapters")
    if not archive:
        return None
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(scratch / commit, filter="data")
    return scratch / commit / "adapters"


def _git(*args: str) -> bytes:
    """Output of git in the repository; empty where it fails."""
    return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, check=False).stdout


# -- model and data ----------------------------------------------------------------------------------------------------
PLACES = ("model", "data.train", "data.questions", "data.test")


def _fingerprints(folder: Path, old: dict[str, Any]) -> dict[str, str]:
    """Today's fingerprints by place. Raises BadInput where the old rule gives another one than the record's.

    What names a commit of the hub stays as it is.
    """
    from omegaconf import OmegaConf

    from harness.config.keys import with_todays_keys
    from harness.config.validate import job_from
    from harness.inputs.fingerprints import Fingerprinter

    local = {
        where: old["science"][where] for where in PLACES if not old["science"].get(where, "hub:").startswith("hub:")
    }
    config = with_todays_keys(OmegaConf.load(folder / "config.yaml"))
    config.device = "cpu"
    job = job_from(config)
    for where, recorded in local.items():
        source = job.model if where == "model" else job.sources[where]
        now = _old_model_fingerprint(source) if where == "model" else _old_source_fingerprint(source, where)
        if now != recorded:
            what = f"{where} is no longer what the record was measured on"
            raise refuse(folder.name, what, got=now, expected=recorded, remedy="Restore it, or run this again.")
    prints = Fingerprinter().of(job)
    return {where: prints[where].content for where in local}


def _old_model_fingerprint(model: Any) -> str:
    """The rule of version 1: weights, config.json, tokenizer.json and tokenizer_config.json, by name and hash."""
    from harness.inputs.base_model import local_folder

    folder = local_folder(model)
    assert folder is not None, "a local model"
    kept = [folder / model.gguf_file] if model.gguf_file else sorted(folder.glob("*.safetensors"))
    kept += [f for name in ("config.json", "tokenizer.json", "tokenizer_config.json") if (f := folder / name).exists()]
    return "sha256:" + sha256([[f.name, file_sha256(f)] for f in kept])


def _old_source_fingerprint(source: Any, where: str) -> str:
    """The rule of version 1: the file's bytes or the generated rows, and the columns."""
    from harness.inputs.rows import local_file

    generated = source.path.startswith("generated:")
    digest = _generated_sha256(source.path, where) if generated else file_sha256(local_file(source.path, where))
    return f"sha256:{digest} columns:{sha256(source.columns)[:8]}"


@functools.cache
def _generated_sha256(path: str, where: str) -> str:
    from harness.inputs.rows import read_generated

    return sha256(read_generated(path.removeprefix("generated:"), where))


if __name__ == "__main__":
    main(sys.argv[1:])
