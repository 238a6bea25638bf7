"""The generated blocks and figures of docs/findings.md, from published records: part of `make docs`.

python -m tools.findings
    check=true   change nothing; exit 1 if the page or a figure differs from what the records give

Also reads reports/update_norms.json (tools.update_norms) and the tables in reports/reference/.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cli.arguments import parse
from harness.paths import PUBLISHED, ROOT
from harness.records.store import read_records
from harness.report.build import SIMULATED
from harness.report.generated import check_unchanged, rewrite
from harness.report.markdown import fill_block
from harness.report.points import launches
from tools._studied import NOT_RUN, Studied
from tools.answers import budgets, changed, elsewhere, levels, rates, sizes

PAGE, FIGURES, NORMS = ROOT / "docs" / "findings.md", ROOT / "docs" / "figures", ROOT / "reports" / "update_norms.json"


@dataclass
class Arguments:
    check: bool = False


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, __doc__ or "")
    texts = build()
    if args.check:
        check_unchanged(texts, "the records give. Run `make docs`.", FIGURES)
    print("\n".join(rewrite(texts, FIGURES)) or "docs/findings.md is up to date")


def build(published: Path = PUBLISHED) -> dict[Path, str]:
    """Path → text of the page and its figures; writes nothing."""
    studied = Studied(read_records([published]).records)
    norms: dict[str, Any] = json.loads(NORMS.read_text()) if NORMS.exists() else {}
    blocks = {
        "budgets": budgets.budgets(studied, launches(SIMULATED)),
        "levels": levels.levels(studied),
        "refinements": levels.refinements(studied),
        "quantized": changed.quantized(studied),
        "decay": changed.undecayed(studied),
        "bases": elsewhere.bases(studied),
        "smollm2": elsewhere.smollm2(studied),
        "published": elsewhere.published(studied),
    }
    drawn = {
        "rates": rates.rates(studied),
        "cores": sizes.cores(studied, norms),
        "sizes": sizes.sizes(studied),
        "loss": rates.loss(studied),
    }
    figures = {FIGURES / f"{name}.svg": svg for name, (_, svg) in drawn.items() if svg}
    for name, (content, svg) in drawn.items():
        blocks[name] = content + (f"\n\n![Figure: {name}](figures/{name}.svg)" if svg else "")
    text = PAGE.read_text(encoding="utf-8")
    for name, content in blocks.items():
        text = fill_block(text, name, content or NOT_RUN, str(PAGE.relative_to(ROOT)))
    return {PAGE: text} | figures


if __name__ == "__main__":
    main(sys.argv[1:])
