"""Evaluate a finished run again, from its saved adapter or from its stored predictions.

python eval_gsm8k.py run=<id>                 load model and adapter, answer all questions again
python eval_gsm8k.py run=<id> rescore=true    score the stored predictions; loads no model
    write=true      (with rescore) put the new scores into the record
    split=test      test or valid
    limit=50        first n questions only
    device=auto     auto, cpu, cuda
    runs_dir=runs   where the run is
"""

import sys
from dataclasses import dataclass


@dataclass
class Arguments:
    run: str
    rescore: bool = False
    write: bool = False
    split: str = "test"
    limit: int | None = None
    device: str = "auto"
    runs_dir: str = "runs"


def main(argv: list[str]) -> None:
    from harness.arguments import parse

    args = parse(Arguments, argv, __doc__ or "")
    from harness.again import evaluate_again, rescore
    from harness.launch import quiet

    quiet()
    if args.write and not args.rescore:
        raise SystemExit("write: nothing to write, got write=true without rescore=true. Add rescore=true.")
    if args.limit is not None and args.rescore:
        raise SystemExit("limit: rescoring takes all stored predictions, got limit with rescore=true. Leave limit out.")
    if args.rescore:
        rescore(args.run, args.runs_dir, args.split, write=args.write)
    else:
        evaluate_again(args.run, args.runs_dir, args.split, limit=args.limit, device=args.device)


if __name__ == "__main__":
    main(sys.argv[1:])
