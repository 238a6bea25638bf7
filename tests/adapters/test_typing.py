"""What a type checker and a reader of error messages see of the package."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import adapters as ad

ROOT = Path(ad.__file__).parents[1]


def test_type_checkers_see_what_is_there_at_run_time():
    """Public names and configs are imported under TYPE_CHECKING from their homes; a variant may be left out (Any)."""
    tree = ast.parse((ROOT / "adapters/__init__.py").read_text())
    (block,) = [n for n in tree.body if isinstance(n, ast.If)]
    seen = {(n.module, a.name, a.asname) for n in block.body for a in n.names}
    names = {n: v.Config.__name__ for n, v in ad.VARIANTS.items()}
    public = {(f"adapters.{home}", name, name) for name, home in ad._HOMES.items()}
    assert public <= seen
    assert seen - public <= {(f"adapters.{n}", config, config) for n, config in names.items()}
    assert len(seen - public) >= 19
    for n, config in names.items():
        assert getattr(ad, config) is ad.VARIANTS[n].Config
        assert config in dir(ad)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("LoraConfig", "LoRAConfig"), ("Attach", "attach"), ("AntipastoDplrConfig", "AntiPaSTODPLRConfig"), ("zzz", None)],
)
def test_unknown_names_are_attribute_errors_with_a_near_match(name, hint):
    with pytest.raises(AttributeError) as caught:
        getattr(ad, name)
    ending = f" Did you mean {hint!r}?" if hint else ""
    assert str(caught.value) == f"module 'adapters' has no attribute {name!r}.{ending}"
    assert not hasattr(ad, name)


@pytest.mark.slow
def test_mypy_strict_checks_what_a_user_writes(tmp_path):
    """Right arguments pass, a wrong one is the only error, and a variant of one's own is taken as Any."""
    (tmp_path / "use.py").write_text(
        "import torch, adapters as ad\n"
        "right: ad.LoRAConfig = ad.LoRAConfig(r=8, layers=range(2))\n"
        "wrong = ad.LoRAConfig(rr=8)\n"
        "own = ad.MyOwnConfig(anything=1)\n"
        "def use(model: torch.nn.Module) -> ad.Attachment: return ad.attach(model, ad.EVAConfig(centre=False))\n"
    )
    words = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file=", "use.py"]
    done = subprocess.run(words, cwd=tmp_path, env=os.environ | {"MYPYPATH": str(ROOT)}, capture_output=True, text=True)
    (error,) = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert error.startswith('use.py:3: error: Unexpected keyword argument "rr" for "LoRAConfig"')
