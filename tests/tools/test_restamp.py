"""tools/restamp.py on copies of the published records: stamps change, numbers do not, and doubt is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.hashing import sha256
from harness.inputs import fingerprints
from harness.inputs.fingerprints import Fingerprint
from harness.paths import PUBLISHED, ROOT
from harness.records.ids import code_hash
from tools import restamp

NAMES = ("tiny-tiny__lora__r8__lr0.01__none__s400__seed0", "tiny-tiny__none__none")


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """Two records as version 1 wrote them, whatever has become of the published ones since."""
    for name in NAMES:
        shutil.copytree(PUBLISHED / name, tmp_path / "runs" / name)
        file = tmp_path / "runs" / name / "result.json"
        record = json.loads(file.read_text())
        commit = record["provenance"]["commit"]
        if subprocess.run(["git", "-C", str(ROOT), "cat-file", "-e", commit], check=False).returncode:
            pytest.skip("a shallow clone: the records' commit is not in it")
        if record["schema_version"] != 1:
            science = {k: v for k, v in record["science"].items() if k != "results_version"}
            kept = {k: v for k, v in record.items() if k not in ("engine_hash", "results_version")}
            folder = restamp._sources(commit, tmp_path / "sources")
            assert folder is not None
            old = {"schema_version": 1, "science": science, "code_hash": restamp._old_hash(folder, record["variant"])}
            file.write_text(restamp._dump(kept | old | {"science_hash": sha256(science)}))
    return tmp_path / "runs"


def changed(copies: Path, name: str, **values: Any) -> None:
    file = copies / name / "result.json"
    file.write_text(restamp._dump(json.loads(file.read_text()) | values))


def test_only_stamps_change(copies: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """The model's fingerprint by a new rule, the code's hash by today's rule over the same sources."""
    new = Fingerprint.local("sha256:by another rule")
    monkeypatch.setattr(fingerprints, "model_fingerprint", lambda *_: new)
    texts = {name: (copies / name / "result.json").read_text() for name in NAMES}
    restamp.main([f"runs_dir={copies}"])
    assert {name: (copies / name / "result.json").read_text() for name in NAMES} == texts
    assert capsys.readouterr().out.count("fingerprints changed: model; all else byte for byte the same") == 2
    restamp.main([f"runs_dir={copies}", "write=true"])
    for name, text in texts.items():
        old, record = json.loads(text), json.loads((copies / name / "result.json").read_text())
        folder = restamp._sources(old["provenance"]["commit"], tmp_path / "sources")
        assert folder is not None
        assert record["code_hash"] == code_hash(old["variant"], folder)
        assert (record["schema_version"], record["results_version"], record["engine_hash"]) == (2, 1, None)
        assert record["science"] == old["science"] | {"model": new.content, "results_version": 1}
        assert record["science_hash"] == sha256(record["science"])
        now = {line.rstrip(",") for line in (copies / name / "result.json").read_text().splitlines()}
        lost = {line.split('"')[1] for line in text.splitlines() if line.rstrip(",") not in now}
        assert lost == {"schema_version", "model", "science_hash", "code_hash"}
    capsys.readouterr()
    restamp.main([f"runs_dir={copies}"])
    assert capsys.readouterr().out.count("version 2 already") == 2


def test_what_cannot_be_verified_is_refused(copies: Path, capsys: Any) -> None:
    """Unknown code, settings that were edited, other data: named, unchanged, exit code 1; the rest is done."""
    lora, none = NAMES
    science = json.loads((copies / lora / "result.json").read_text())["science"]
    other = science | {"data.train": f"sha256:{'0' * 64} columns:00000000"}
    for values, line in (
        ({"code_hash": "0" * 16}, "its code_hash is that of no commit in this clone"),
        ({"science": science | {"lr": 0.5}}, "its settings are not those that were hashed"),
        ({"science": other, "science_hash": sha256(other)}, "data.train is no longer what the record was measured on"),
    ):
        original = (copies / lora / "result.json").read_text()
        changed(copies, lora, **values)
        before = (copies / lora / "result.json").read_text()
        with pytest.raises(SystemExit, match="1 record"):
            restamp.main([f"runs_dir={copies}", "write=true"])
        assert f"{lora}: {line}" in capsys.readouterr().err
        assert (copies / lora / "result.json").read_text() == before
        (copies / lora / "result.json").write_text(original)
    assert json.loads((copies / none / "result.json").read_text())["schema_version"] == 2
