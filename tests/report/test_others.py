"""Results that others published, beside ours and compared with nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import BadInput
from harness.report.build import REFERENCE
from harness.report.others import read_peft, references
from harness.report.publish import rebuild, show
from tests import factory
from tests.report.conftest import RECORDS


def peft_result(**train: Any) -> dict[str, Any]:
    """As github.com/huggingface/peft writes them, with a field that nobody knows."""
    last = {
        "step": 5000,
        "test accuracy": 636 / 1319,
        "train loss": 0.6,
        "train total tokens": 4198051,
        "forgetting": 0.05,
    }
    return {
        "run_info": {
            "experiment_name": "lora/llama-3.2-3B-rank32",
            "total_time": 1993.5,
            "train_config": {
                "model_id": "meta-llama/Llama-3.2-3B",
                "max_steps": 5000,
                "optimizer_kwargs": {"lr": 1e-4},
            },
            "peft_config": {"peft_type": "LORA", "r": 32},
            "from the future": [1],
        },
        "train_info": {
            "accelerator_memory_max": 22273851392,
            "train_time": 1796.0,
            "file_size": 36715216,
            "num_trainable_params": 9175040,
            "status": "success",
            "metrics": [{"step": 250, "valid accuracy": 0.3}, last],
        }
        | train,
        "meta_info": {"system_info": {"gpu": "NVIDIA L40S"}},
    }


def test_pefts_results_stand_beside_ours(tmp_path: Path, repository: Path, capsys: Any) -> None:
    """In a section of their own, marked, compared with nothing; files that are none are named."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    old = peft_result(cuda_memory_max=1e10)
    del old["train_info"]["accelerator_memory_max"]  # the field's name until 2025
    good = {"new": peft_result(), "old": old, "lost": peft_result(status="failed", metrics=[])}
    broken: dict[str, Any] = {
        "ours": RECORDS[0],
        "list": [1],
        "null": None,
        "empty": peft_result(metrics=[]),
        "odd": peft_result(metrics=[{"test accuracy": 63.2}]),
        "text": peft_result(num_trainable_params="many"),
    }
    for name, content in (good | broken).items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "half.json").write_text(json.dumps(peft_result())[:500])
    (folder / "README.md").write_text("")
    frame, skipped = read_peft(folder)
    assert sorted(frame["cell"]) == sorted(good)
    assert sorted(line.split(":")[0] for line in skipped) == sorted(f"{n}.json" for n in [*broken, "half"])
    new, first = frame.set_index("cell").loc["new"], frame.set_index("cell").loc["old"]
    assert (new["accuracy"], new["params"], new["lr"], new["forgetting"]) == (636 / 1319, 9175040, 1e-4, 0.05)
    assert (new["low"], new["high"]) == pytest.approx((0.4553, 0.5092), abs=1e-4)
    assert (new["peak_train_gb"], first["peak_train_gb"]) == pytest.approx((22.273851392, 10.0))
    assert frame["difference"].isna().all()

    runs = factory.write(repository / "local", factory.record(), factory.record("hra", skill=1.0))
    show(str(runs), str(folder))
    assert "not counted: half.json" in capsys.readouterr().out
    local = repository / "reports" / "local"
    for name in ("results.md", "index.html"):
        assert "not run here" in (local / name).read_text()
        assert "lora/llama-3.2-3B-rank32 (lost) (1 failed)" in (local / name).read_text()
    assert any("peft" in p.name for p in (local / "plots").glob("*.svg"))
    rebuild()
    assert "not run here): meta" not in (repository / "reports" / "results.md").read_text()


@pytest.mark.parametrize("what", ["nothing there", "empty"])
def test_a_wrong_folder_is_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        BadInput, match=r"^compare: no JSON files, got '.*'; expected a folder of PEFT's result files\.$"
    ):
        read_peft(tmp_path / what)


def test_published_figures_name_their_source() -> None:
    """Each with its own table, best first, Wilson's interval added; the figures are the file's."""
    found = references(REFERENCE)
    assert len(found) == len(list(REFERENCE.glob("*.csv"))) == 2
    lite, peft = found
    assert lite.source == "https://github.com/wassname/lora-lite"
    assert lite.body[0][:2] == ["LoRA", "63.2 [60.6, 65.8]"]
    assert len(lite.body) == 12
    assert len(peft.body) == 63
    values = [float(row[1].split()[0]) for row in peft.body]
    assert values == sorted(values, reverse=True)
    assert [p["accuracy"] for p in peft.points] == pytest.approx(values, abs=0.051)
    lora = next(p for p in peft.points if p["name"] == "lora rank32")
    assert (lora["params"], lora["file"], lora["peak"], lora["family"]) == (9175040, 36715216, 20.76, "low rank")
    assert [p["name"] for p in peft.points if p["reference"]] == ["full-finetuning lr_0.00001"]
    assert [p["params"] for p in lite.points if p["name"] == "AntiPaSTO-CorDA"] == [14300]
    assert {p["family"] for p in lite.points} == {"low rank", "frozen basis", "gains", "rotations"}
    assert references(Path("/nowhere")) == []
