"""Re-evaluate a finished run, from its saved adapter or from its stored predictions.

python eval_gsm8k.py run=<id or folder>       load model and adapter, answer all questions
python eval_gsm8k.py run=<id> rescore=true    score the stored predictions again; loads no model
python eval_gsm8k.py run=<id> platinum=<file> score them by GSM8K-Platinum (a file or hub id); loads no model
python eval_gsm8k.py run=<id> repeat=2        answer the test questions again in another batch order: the noise floor
    columns=question:query,answer:solution   column names in the platinum file
    write=true      store the new scores, platinum or repeat in the record
    split=test      test or valid
    limit=50        first n questions only
    device=auto     auto, cpu, cuda
    runs_dir=runs   folder of the run
"""

import sys
from contextlib import nullcontext
from dataclasses import dataclass


@dataclass
class Arguments:
    run: str  # its id or folder
    rescore: bool = False
    platinum: str = ""
    columns: str = ""
    repeat: int | None = None
    write: bool = False
    split: str = "test"
    limit: int | None = None
    device: str = "auto"
    runs_dir: str = "runs"


def main(argv: list[str]) -> None:
    from harness.cli.arguments import parse

    args = parse(Arguments, argv, __doc__ or "")
    chosen = {"rescore": args.rescore, "platinum": args.platinum != "", "repeat": args.repeat is not None}
    modes = [name for name, on in chosen.items() if on]
    if len(modes) > 1:
        raise SystemExit(f"{modes[1]}: only one mode at a time, got {' and '.join(modes)}. Keep one of them.")
    if args.write and not modes:
        raise SystemExit(
            "write: nothing to write, got write=true alone. Add rescore=true, platinum=<file> or repeat=2."
        )
    if args.limit is not None and modes:
        raise SystemExit(f"limit: {modes[0]} takes all questions of the run, got limit={args.limit}. Leave limit out.")
    if args.split != "test" and modes and not args.rescore:
        raise SystemExit(f"split: {modes[0]} is about the test questions, got {args.split!r}. Leave split out.")
    if args.columns and not args.platinum:
        raise SystemExit(f"columns: nothing to read, got {args.columns!r}. They are those of platinum=<file>.")
    from harness import reevaluate
    from harness.cli.quiet import quiet
    from harness.paths import run_folder
    from harness.records.lock import lock

    quiet()
    folder = run_folder(args.run, args.runs_dir)
    args.run, args.runs_dir = folder.name, str(folder.parent)
    # Two processes that write to one record must not lose each other's changes.
    with lock(folder.parent, folder.name) if args.write and folder.is_dir() else nullcontext():
        if args.rescore:
            reevaluate.rescore(args.run, args.runs_dir, args.split, write=args.write)
        elif args.platinum:
            reevaluate.platinum(args.run, args.runs_dir, args.platinum, args.columns, write=args.write)
        elif args.repeat is not None:
            reevaluate.repeat(args.run, args.runs_dir, args.repeat, write=args.write, device=args.device)
        else:
            reevaluate.evaluate(args.run, args.runs_dir, args.split, limit=args.limit, device=args.device)


if __name__ == "__main__":
    from harness.cli.utf8 import use_utf8

    use_utf8()
    main(sys.argv[1:])
