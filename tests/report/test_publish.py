"""What publish= copies: checked records of finished runs, regular files, one id at a time, nothing unasked."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import cost_report
from harness.errors import BadInput
from harness.report.publish import check, publish, rebuild, show
from harness.run import run
from tests import factory

GOOD = factory.record()
ID = GOOD["run_id"]


@pytest.fixture
def local(repository: Path) -> Path:
    return factory.write(repository / "local", GOOD)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["..", "../local", f"../local/{ID}", "/etc", ".", "", "a/b", "x" * 300, "x\n", "-x"])
def test_only_a_plain_name_is_an_id(local: Path, repository: Path, name: str) -> None:
    with pytest.raises(BadInput, match=r"^publish: not a run id, got "):
        publish([name], str(local))
    assert not (repository / "runs").exists()


@pytest.mark.parametrize("file", ["result.json", "config.yaml", "metrics.jsonl"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "large"])
def test_only_regular_files_are_copied(local: Path, repository: Path, file: str, kind: str) -> None:
    """A link may lead to a private key, a pipe never ends."""
    secret, path = repository / "id_rsa", local / ID / file
    secret.write_text(json.dumps(GOOD) if file == "result.json" else "PRIVATE KEY")
    path.unlink(missing_ok=True)
    {
        "link": lambda: path.symlink_to(secret),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "large": lambda: path.write_bytes(b" " * 17_000_000),
    }[kind]()
    with pytest.raises(BadInput, match=f"^publish={ID}: {file} .*(links are not followed|not a regular file)"):
        publish([ID], str(local))
    assert not (repository / "runs").exists()


def test_only_whole_records_of_finished_runs_of_that_id(local: Path, repository: Path) -> None:
    bad: dict[str, Any] = {
        "two": {"run_id": "two", "status": "done"},
        "copy": GOOD,
        "failed": factory.record(status="failed") | {"run_id": "failed"},
        "bits": GOOD | {"run_id": "bits", "test": GOOD["test"] | {"correct": 1}},
    }
    for name, record in bad.items():
        (local / name).mkdir()
        (local / name / "result.json").write_text(json.dumps(record))
        with pytest.raises(BadInput, match=f"^publish={name}: not a finished run"):
            publish([ID, name], str(local))
    (local / "link").symlink_to(local / ID)
    with pytest.raises(BadInput, match=r"^publish=link: is a link"):
        publish([ID, "link"], str(local))
    assert not (repository / "runs").exists()


def test_a_published_run_is_replaced_only_by_force(local: Path, repository: Path) -> None:
    publish([ID, ID], str(local))
    publish([ID], str(local))  # the same bytes
    published = repository / "runs" / "published"
    before = files(published)
    assert before == files(local)
    (local / ID / "adapter.safetensors").write_text("large")
    (local / ID / "metrics.jsonl").unlink()
    (local / ID / "result.json").write_text(json.dumps(GOOD | {"seconds": 1.0}))
    with pytest.raises(BadInput, match=rf"^publish={ID}: published already\. force=true replaces it\.$"):
        publish([ID], str(local))
    assert files(published) == before
    publish([ID], str(local), force=True)
    assert files(published) == {f"{ID}/result.json": (local / ID / "result.json").read_bytes()}


@pytest.mark.parametrize("call", ["os.replace", "os.fsync"])
def test_a_full_disk_leaves_the_readme(local: Path, repository: Path, monkeypatch: Any, call: str) -> None:
    publish([ID], str(local))
    readme = (repository / "README.md").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(call, full)
        with pytest.raises(BadInput, match=r"README\.md: cannot be written \(No space left on device\)"):
            rebuild()
    assert (repository / "README.md").read_bytes() == readme
    assert not list(repository.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["publish=x", "check=true"], "check: changes nothing, publish does"),
        (["force=true"], "force: replaces records that publish=<id> names, and none is named"),
        (["runs_dir=/nosuch"], "runs_dir: no such folder, got '/nosuch'"),
    ],
)
def test_arguments_that_do_not_go_together(words: list[str], line: str) -> None:
    with pytest.raises(BadInput, match=f"^{line}"):
        cost_report.main(words)


def test_the_folder_on_this_machine_is_not_published(local: Path, repository: Path) -> None:
    data = local / "train.jsonl"  # says what was trained on, and stays
    words = [f"runs_dir={local}", "cache_dir='/a b'", "lr=0.1", f"data.train.path={data}"]
    record = GOOD | {"provenance": GOOD["provenance"] | {"argv": words}}
    (local / ID / "result.json").write_text(json.dumps(record))
    (local / ID / "config.yaml").write_text(f"runs_dir: {local}\ncache_dir: .other\ndata: {data}\n")
    publish([ID], str(local))
    published = repository / "runs" / "published" / ID
    argv = ["runs_dir=runs", "cache_dir=.cache", "lr=0.1", f"data.train.path={data}"]
    assert json.loads((published / "result.json").read_text())["provenance"]["argv"] == argv
    assert (published / "config.yaml").read_text() == f"runs_dir: runs\ncache_dir: .other\ndata: {data}\n"


def test_check_fails_on_any_changed_figure(repository: Path) -> None:
    lora = factory.record(right=[n % 4 == 0 for n in range(40)], params=1234567)
    published = factory.write(repository / "runs" / "published", lora, factory.record("hra", questions=40))
    rebuild()
    check()
    readme, csv = repository / "README.md", repository / "reports" / "results.csv"
    assert "25.0 [" in readme.read_text()
    for file, old, new in ((readme, "25.0 [", "26.0 ["), (csv, "1234567", "1234568")):
        text = file.read_text()
        file.write_text(text.replace(old, new, 1))
        with pytest.raises(SystemExit, match=f"{file.name}: not what runs/published gives") as stopped:
            check()
        assert stopped.value.code not in (0, None)
        assert file.read_text() != text  # check changes nothing
        rebuild()
        assert file.read_text() == text
    changed = factory.record(right=[True] * 40)
    (published / changed["run_id"] / "result.json").write_text(json.dumps(changed))
    with pytest.raises(SystemExit, match=r"README\.md.*results\.csv.*not what"):
        check()


def test_publish_copies_small_files_of_finished_runs(repository: Path, small_job: Any, capsys: Any) -> None:
    """A real run: its published record alone gives the table; nothing is copied when one of the ids is wrong."""
    job = small_job(f"runs_dir={repository / 'local'}")
    name = run(job)["run_id"]
    published = repository / "runs" / "published"
    with pytest.raises(
        BadInput, match=r"^publish=nope: no finished run of this id; expected a folder with result\.json"
    ):
        publish([name, "nope"], str(job.runs_dir))
    assert not published.exists()
    publish([name], str(job.runs_dir))
    assert {p.name for p in (published / name).iterdir()} == {"result.json", "config.yaml", "metrics.jsonl"}
    assert (published / name / "result.json").read_bytes() == (job.runs_dir / name / "result.json").read_bytes()
    shutil.rmtree(job.runs_dir)
    rebuild()
    check()
    assert "not counted" not in capsys.readouterr().out
    show(str(job.runs_dir))
    assert "[lora](" in (repository / "README.md").read_text()
    assert "\nlora  " in capsys.readouterr().out
