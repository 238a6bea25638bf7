"""The learning rate that stands for a variant: the one rule of `lr=tuned`, the tables and the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from harness.records.record import Record

Accuracies = Mapping[int | None, float]  # validation accuracy by seed


@dataclass(frozen=True)
class Point:
    """One learning rate: its mean validation accuracy over the compared seeds, and their number."""

    lr: float
    valid: float
    seeds: int


@dataclass(frozen=True)
class Choice:
    """points: by rising learning rate. best: index of the chosen one. edge: it is the smallest or largest tried."""

    points: list[Point]
    best: int

    @property
    def edge(self) -> bool:
        return len(self.points) > 1 and self.best in (0, len(self.points) - 1)


def validation(record: Record) -> float | None:
    """Validation accuracy as selection sees it: 0 for a diverged run, None for one without an outcome."""
    if record["status"] == "done":
        return record["valid"]["accuracy"]
    return 0.0 if record["status"] == "diverged" else None


def choose(curve: Sequence[tuple[float, Accuracies]]) -> Choice:
    """The learning rate with the best mean validation accuracy; ties go to the smaller one. Test scores play no part.

    curve: (learning rate, accuracies), ascending, none empty. Only seeds that every learning rate has are compared:
    an easy seed favours none, and further seeds at the chosen one change nothing. Without a shared seed, all count.
    """
    shared = set.intersection(*(set(by_seed) for _, by_seed in curve))
    points = []
    for lr, by_seed in curve:
        values = [accuracy for seed, accuracy in by_seed.items() if seed in shared or not shared]
        points.append(Point(lr, mean(values), len(values)))
    return Choice(points, max(range(len(points)), key=lambda n: (points[n].valid, -n)))
