"""Published records as docs/findings.md asks them, and the words that its answers (tools/answers/) share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from harness.paths import PUBLISHED, ROOT
from harness.records.choose_lr import choose
from harness.records.record import Record
from harness.report.learning_rates import Curve, curves
from harness.report.sections import Cell, Section, sections
from harness.report.stats import Estimate
from harness.report.table import cells
from tools.study import by_response_loss

NOT_RUN = "Not run yet (`make study`)."
CLOSE = 0.02  # of validation accuracy: about its standard error


@dataclass
class Studied:
    """Published records, as the tables see them."""

    records: list[Record]

    @cached_property
    def sections(self) -> list[Section]:
        return sections(cells(self.records))

    @cached_property
    def table(self) -> Section | None:
        """The embedded benchmark with its own settings: every adapter, size, rate and quantization."""
        return next((s for s in self.sections if s.main and s.cells[0].first["benchmark"] == "tiny"), None)

    @cached_property
    def main(self) -> list[Cell]:
        return self.table.cells if self.table else []

    def beside(self, key: str) -> list[Section]:
        """The sections of the table's setting whose protocol differs from its in this key alone."""
        if self.table is None:
            return []
        near, ours = [s for s in self.sections if s.setting == self.table.setting], self.table.protocol
        return [s for s in near if {k for k, v in ours.items() if s.protocol.get(k) != v} == {key}]

    @cached_property
    def curves(self) -> list[Curve]:
        """One per adapter and size on a plain base, best first; the floor is none, the ceiling is one."""
        return self._curves(fewest=1)

    @cached_property
    def repeated(self) -> list[Curve]:
        """Those of the learning rates that ran with several seeds."""
        return self._curves(fewest=2)

    def _curves(self, fewest: int) -> list[Curve]:
        plain = [c for c in self.main if c.trained and c.first["quantization"] == "none" and len(c.runs) >= fewest]
        return sorted((c for c in curves(plain) if c.chosen.done), key=lambda c: -accuracy(c.chosen))

    @cached_property
    def usual(self) -> list[Curve]:
        """Those at the variant's own settings."""
        return [c for c in self.curves if c.chosen.own_settings]

    @cached_property
    def floor(self) -> float:
        """Accuracy of the untrained model; 0 where it is not published."""
        return max((accuracy(c) for c in self.main if not c.trained and c.done), default=0.0)


# -- small words -------------------------------------------------------------------------------------------------------
def accuracy(cell: Cell) -> float:
    return float(cell.right.mean())


def response_loss(cell: Cell) -> float:
    """Nats per token, mean over the seeds; NaN where the cell has none."""
    return float(cell.responses.nats.mean() * cell.responses.per_token) if cell.responses else float("nan")


def parameters(cell: Cell) -> int:
    """How many numbers it trains."""
    return cell.first["trainable_params"] or 0


def linked(cell: Cell, name: str = "") -> str:
    """The cell's name, or the one given, as a link to its first record."""
    return f"[{name or cell.label}](../{PUBLISHED.relative_to(ROOT)}/{cell.first['run_id']}/result.json)"


def points(e: Estimate) -> str:
    return f"{round(100 * e.value, 1) + 0.0:+.1f} [{100 * e.low:+.1f}, {100 * e.high:+.1f}]"


def plain_choices(section: Section) -> dict[str, Cell]:
    """Label → chosen cell of each trained variant with its own settings, on a plain base."""
    chosen = [c.chosen for c in curves(section.cells)]
    return {c.label: c for c in chosen if c.plain and c.trained and c.done}


def by_loss(cells_: list[Cell]) -> Cell:
    """The learning rate with the lowest response loss on validation, over the seeds that all rates have."""
    ended = [(c, worth) for c in cells_ if (worth := worth_by_loss(c))]
    ended.sort(key=lambda pair: pair[0].first["lr"] or 0.0)
    return ended[choose([(c.first["lr"] or 0.0, worth) for c, worth in ended]).best][0]


def worth_by_loss(cell: Cell) -> dict[int | None, float]:
    """Seed → minus the response loss on validation."""
    return {r["seed"]: worth for r in cell.runs if (worth := by_response_loss(r)) is not None}
