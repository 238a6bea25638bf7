"""What the stored base model was made from: its hyperparameters, and a hash over them and the sources that decide it.

Kept apart from the sources it hashes, and free of torch, so that the check is quick and may itself be reworded.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.hashing import syntax_tree
from harness.tiny.problems import SPEC

MODEL_DIR = Path(__file__).resolve().parents[2] / "models" / "tiny"
SOURCES = ("expressions.py", "families.py", "surface.py", "problems.py", "documents.py", "tokenizer.py", "pretrain.py")
VOCAB_SIZE = 768


@dataclass(frozen=True)
class Recipe:
    """Architecture and training of the base. q and v are 256 wide both ways, so that rank 64 is a real selection."""

    hidden_size: int = 256
    layers: int = 4
    heads: int = 4
    head_dim: int = 64
    intermediate_size: int = 512
    steps: int = 3600
    batch_rows: int = 16
    row_tokens: int = 128
    lr: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.1
    shares: tuple[float, float, float] = (0.2, 0.15, 0.05)  # of equations, formulas and stories among the documents
    noise_weight: float = 0.1
    seed: int = 0
    threads: int = 1  # another number rounds differently


def recipe_hash(recipe: Recipe | None = None) -> str:
    """SHA-256 over everything that decides the model: the generator, tokenizer and trainer sources, and the recipe."""
    digest = hashlib.sha256(json.dumps([asdict(recipe or Recipe()), VOCAB_SIZE, SPEC], sort_keys=True).encode())
    for name in SOURCES:
        digest.update(syntax_tree((Path(__file__).parent / name).read_text(encoding="utf-8")).encode())
    return digest.hexdigest()


def check(folder: Path = MODEL_DIR) -> None:
    """Raise SystemExit where the stored model was not made by the current sources."""
    path = folder / "recipe.json"
    stored = json.loads(path.read_text(encoding="utf-8"))["recipe_hash"] if path.is_file() else None
    if stored != recipe_hash():
        raise SystemExit(f"{path}: recipe hash, got {stored!r}; expected {recipe_hash()!r}. Run `make tiny-base`.")
