"""Rebuild the results table from the records of runs.

python cost_report.py                 README.md and reports/ from runs/published/; local runs go to the terminal
    publish=<id>,<id>   first copy these runs' records to runs/published/; force=true replaces published ones
    check=true          change nothing; exit 1 when README.md or reports/ differ from the published records
    runs_dir=runs       where local runs are
    compare=<folder>    also read PEFT's method_comparison result files (*.json); they go to reports/local/, marked
"""

import sys
from dataclasses import dataclass, field


@dataclass
class Arguments:
    publish: list[str] = field(default_factory=list)
    check: bool = False
    force: bool = False
    runs_dir: str = "runs"
    compare: str = ""


def main(argv: list[str]) -> None:
    from harness.cli.arguments import parse

    args = parse(Arguments, argv, __doc__ or "")
    from harness.errors import refuse
    from harness.paths import under_root
    from harness.report.publish import check, publish, rebuild, show

    if args.publish and args.check:
        raise refuse("check", "changes nothing, publish does", remedy="Publish first, then run check=true alone.")
    if args.force and not args.publish:
        raise refuse("force", "replaces records that publish=<id> names, and none is named")
    if args.runs_dir != "runs" and not under_root(args.runs_dir).is_dir():
        raise refuse("runs_dir", "no such folder", got=args.runs_dir, expected="a folder of runs")
    if args.check:
        check()
        return
    if args.publish:
        publish(args.publish, args.runs_dir, force=args.force)
    rebuild()
    show(args.runs_dir, args.compare)


if __name__ == "__main__":
    from harness.cli.utf8 import use_utf8

    use_utf8()
    main(sys.argv[1:])
