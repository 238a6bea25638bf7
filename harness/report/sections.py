"""Which runs may be compared: cells (runs that differ in their seed alone) and sections (cells of one protocol)."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.evaluation.metrics import from_bits, from_nats
from harness.records.choose_lr import validation
from harness.records.record import Record, one_line
from harness.report.names import changes, known_settings, row_name, setting_name, usual_protocol
from harness.report.stats import Right

# What one variant may have and another not, without the two being other benchmarks. `adapter.*` is the variant's too.
OWN = ("variant", "lr", "seed", "quantization", "calibration_examples", "scorer_version")


def questions_of(record: Record) -> tuple[str, int] | None:
    """Hash of a record's test questions and version of its scorer; None where the run is not done."""
    return (record["test"]["questions_hash"], record["test"]["scorer_version"]) if record["status"] == "done" else None


@dataclass(frozen=True)
class Responses:
    """Loss of the reference responses. nats: (seeds, questions). tokens: label tokens of these questions."""

    nats: NDArray[np.float64]
    tokens: int

    @property
    def per_token(self) -> float:
        """What turns nats per question, the mean of `nats`, into nats per token. The same for all runs of a section."""
        questions: int = self.nats.shape[1]
        return questions / self.tokens


@dataclass(frozen=True)
class Cell:
    """Runs that differ in nothing but their seed; their test questions and scorer are the same."""

    name: str
    runs: list[Record]

    @cached_property
    def done(self) -> list[Record]:
        return [r for r in self.runs if r["status"] == "done"]

    @property
    def first(self) -> Record:
        return (self.done or self.runs)[0]

    @cached_property
    def right(self) -> Right:
        """(seeds, questions) of the test set."""
        return np.array([from_bits(r["test"]["correct_bits"], r["test"]["total"]) for r in self.done])

    @cached_property
    def responses(self) -> Responses | None:
        """Of the test questions whose references fit the model; None where a run lacks them or read other texts."""
        tests = [r["test"] for r in self.done]
        tokens = {t.get("response_tokens", 0) for t in tests}
        if len(tokens) != 1 or 0 in tokens:
            return None
        nats = np.array([from_nats(t["response_nats"]) for t in tests])
        unfit = np.isnan(nats)
        return Responses(nats[:, ~unfit[0]], tokens.pop()) if (unfit == unfit[0]).all() else None

    @property
    def questions(self) -> tuple[str, int] | None:
        """Hash of the test questions and version of the scorer; None where no run is done."""
        return questions_of(self.first)

    @property
    def setting(self) -> str:
        return f"{self.first['benchmark']}-{self.first['model']}"

    @property
    def label(self) -> str:
        """The variant, and what differs from its own settings."""
        return row_name(self.first["variant"], self.first["benchmark"], self.first["science"])

    @property
    def own_settings(self) -> bool:
        return self.label == self.first["variant"]

    @property
    def plain(self) -> bool:
        """With the variant's own settings, on a base that is not quantized."""
        return self.own_settings and self.first["quantization"] == "none"

    @property
    def protocol(self) -> dict[str, Any]:
        """Everything but the variant that decides a result: data, prompt, steps, batch size, weight decay, …"""
        science = self.first["science"]
        return {k: v for k, v in science.items() if k not in OWN and not k.startswith("adapter.")}

    @property
    def trained(self) -> bool:
        return self.first["lr"] is not None

    @property
    def measures_seeds(self) -> bool:
        """Whether the spread between seeds can be seen in these runs, or there is none."""
        return len(self.done) > 1 or not self.trained

    @property
    def config(self) -> str:
        """The variant with its settings but for the learning rate."""
        settings = self.first["science"].items()
        own = {k: v for k, v in settings if k.startswith("adapter.") or k == "calibration_examples"}
        return json.dumps([self.first["variant"], self.first["quantization"], own], sort_keys=True)

    @property
    def validation(self) -> dict[int | None, float]:
        """Seed → validation accuracy, as the choice of the learning rate sees it."""
        return {r["seed"]: accuracy for r in self.runs if (accuracy := validation(r)) is not None}


@dataclass
class Section:
    """Cells that may be compared: same benchmark, model, protocol, test questions and version of the scorer."""

    setting: str
    questions: tuple[str, int] | None
    protocol: dict[str, Any]
    cells: list[Cell] = field(default_factory=list)
    title: str = ""
    main: bool = False  # the benchmark's own settings, of a benchmark and model that conf/report.yaml names

    @property
    def unusual(self) -> list[str]:
        """In words, what differs from the benchmark's own settings."""
        return changes(self.protocol, usual_protocol(self.cells[0].first["benchmark"]))

    @property
    def plain(self) -> int:
        """How many of the cells are plain."""
        return sum(c.plain for c in self.cells)

    def takes(self, cell: Cell) -> bool:
        """Whether a cell belongs here. The floor has no training settings, and failed runs have no questions."""
        others = cell.questions != self.questions and None not in (cell.questions, self.questions)
        if cell.setting != self.setting or others:
            return False
        if cell.trained:
            return cell.protocol == self.protocol
        return all(cell.protocol[k] == self.protocol[k] for k in cell.protocol.keys() & self.protocol.keys())

    def place(self, cell: Cell) -> tuple[str, bool]:
        """Title of the table that shows the cell, and whether that is the benchmark's main one.

        Quantized bases and settings that are not the variant's own have tables beside it: what others publish adds
        no row to the main one and no comparison to its correction.
        """
        different = [] if cell.own_settings else ["other adapter settings"]
        if (quantization := cell.first["quantization"]) != "none":
            different.append(f"{one_line(quantization)} base")
        joint = ", " if ": " in self.title else ": "
        title = self.title + joint * bool(different) + ", ".join(different)
        return title, self.main and not different


def sections(cells: list[Cell]) -> list[Section]:
    """Every cell in its section; the floor and cells of failed runs in each section that they fit."""
    out: list[Section] = []
    for cell in sorted(cells, key=lambda c: (not c.trained, c.questions is None, c.name)):
        fitting = [s for s in out if s.takes(cell)]
        if not fitting:
            out.append(Section(cell.setting, cell.questions, cell.protocol))
            fitting = out[-1:]
        for section in fitting:
            section.cells.append(cell)
    order = {setting: n for n, setting in enumerate(known_settings())}
    place = {s.setting: (order.get(s.setting, len(order)), s.setting) for s in out}
    out.sort(key=lambda s: (*place[s.setting], len(s.unusual), -s.plain, s.cells[0].name))
    _entitle(out, order.keys())
    return out


def _entitle(ordered: list[Section], settings: Collection[str]) -> None:
    """Titles: whatever else is published, the first section of a setting keeps its name and its place."""
    first: dict[str, Section] = {}
    titles: set[str] = set()
    for section in ordered:
        main = first.setdefault(section.setting, section)
        section.main = section is main and section.setting in settings and not section.unusual
        different = section.unusual + [c for c in changes(section.protocol, main.protocol) if c not in section.unusual]
        if section.questions and main.questions and section.questions[1] != main.questions[1]:
            different.append(f"scorer {section.questions[1]}")
        title = setting_name(section.setting) + ": " * bool(different) + ", ".join(different)
        same = sum(t == title or t.startswith(f"{title} #") for t in titles)
        section.title = f"{title} #{same + 1}" if same else title
        titles.add(section.title)
