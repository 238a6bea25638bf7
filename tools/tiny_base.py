"""Pre-train the embedded base model from scratch: `make tiny-base` (under an hour on one core; resumes).

python -m tools.tiny_base    writes models/tiny, once training has ended
    check=true               change nothing; exit 1 if the stored recipe hash differs from that of the sources
    folder=models/tiny       where to write the model
    seed=0                   of its weights and documents; another seed is another base, for judging the recipe
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from harness.cli.arguments import parse
from harness.paths import under_root
from harness.tiny.pretrain import pretrain, write
from harness.tiny.recipe import Recipe, check, recipe_hash
from harness.tiny.tokenizer import train_tokenizer


@dataclass
class Arguments:
    check: bool = False
    folder: str = "models/tiny"
    seed: int = 0


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    folder, recipe = under_root(args.folder), Recipe(seed=args.seed)
    if args.check:
        check(folder)
        print(f"{folder}: recipe hash matches the sources")
        return
    digest = recipe_hash(recipe)  # before training, so that an edit made meanwhile is not credited with this model
    tokenizer = train_tokenizer()
    state = under_root(".cache") / f"{folder.name}-{args.seed}.pt"
    model = pretrain(recipe, tokenizer, state, lambda line: print(line, flush=True))
    write(folder, recipe, digest, tokenizer, model)
    state.unlink()
    print(f"wrote {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
