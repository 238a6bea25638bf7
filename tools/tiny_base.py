"""Pre-train the embedded base model from scratch: `make tiny-base` (up to an hour on two cores).

python -m tools.tiny_base    writes models/tiny, once training has ended
    check=true               change nothing; exit 1 if the stored recipe hash differs from that of the sources
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from harness.cli.arguments import parse


@dataclass
class Arguments:
    check: bool = False


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    from harness.tiny.recipe import MODEL_DIR, Recipe, check, recipe_hash

    if args.check:
        check()
        print(f"{MODEL_DIR}: recipe hash matches the sources")
        return
    from harness.tiny.pretrain import pretrain, write
    from harness.tiny.tokenizer import train_tokenizer

    recipe = Recipe()
    digest = recipe_hash(recipe)  # before training, so that an edit made meanwhile is not credited with this model
    tokenizer = train_tokenizer()
    model = pretrain(recipe, tokenizer, lambda line: print(line, flush=True))
    write(MODEL_DIR, recipe, digest, tokenizer, model)
    print(f"wrote {MODEL_DIR}")


if __name__ == "__main__":
    main(sys.argv[1:])
