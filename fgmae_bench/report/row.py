"""What a table is made of: rows of records that differ by seed only, the values of their cells, and notes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fgmae_bench.config.experiments import Experiment, Gate, PlannedRun
from fgmae_bench.errors import BenchError
from fgmae_bench.records import Record
from fgmae_bench.report.published import Published


@dataclass(frozen=True, kw_only=True)
class Note:
    """A remark on a row: a code to count by and the sentence to show."""

    code: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Obstacle(Note):
    """Why no difference is shown; `short` stands where the difference would."""

    short: str


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and sample standard deviation (ddof = 1) over `n` > 1 seeds."""

    mean: float
    std: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """A test interval: what the metric may be on other samples of the same kind, for the same trained head."""

    low: float
    high: float


Value = None | bool | int | float | str | Spread | Bounds | tuple[Note, ...]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a gate says of a row: the published number, how far off it may be, and what was measured, if anything."""

    metric: str
    expected: float
    tolerance: float
    source: str
    measured: float | None

    @property
    def passed(self) -> bool | None:
        """Whether the number was reached; None where nothing was measured."""
        return None if self.measured is None else abs(self.measured - self.expected) <= self.tolerance + 1e-12

    @property
    def words(self) -> str:
        """`passed: oa 0.751, 0.754 ± 0.010`."""
        wanted = f"{self.expected:.3f} ± {self.tolerance:.3f}"
        if self.measured is None:
            return f"{self.metric} {wanted} expected"
        return f"{'passed' if self.passed else 'missed'}: {self.metric} {self.measured:.3f}, {wanted} expected"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table. Without records it shows what was `planned` (settings by name) and what was published."""

    label: str
    dataset: str  # the card's title
    records: tuple[Record, ...] = ()
    planned: dict[str, Any] = field(default_factory=dict)
    published: Published | None = None
    gates: tuple[Verdict, ...] = ()
    area: float | Spread | None = None  # under the curve of labels that the row is a point of
    grid: int | None = None  # rows that differ in their settings alone, this one among them, where val could choose
    candidates: int | None = None  # rows from which this one, which repeats the best of them, was chosen on val
    deltas: dict[str, float] = field(
        default_factory=dict
    )  # metric -> measured - published, where the two may be compared
    notes: tuple[Note, ...] = ()

    @property
    def no_difference(self) -> str | None:
        """Why there is no difference from the published numbers, None where there is one, or nothing to compare."""
        return next((note.short for note in self.notes if isinstance(note, Obstacle)), None)

    @property
    def synthetic(self) -> bool:
        """True when the row was measured on a generated world."""
        return any(record["dataset"]["synthetic"] for record in self.records)


@dataclass(frozen=True, kw_only=True)
class Table:
    """One experiment's table, ready for any format.

    `figures` maps a metric to the file name of its curves; `pictures` maps what other pictures show to theirs.
    """

    name: str
    title: str
    protocol: str
    expect: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    planned_runs: int
    measured_runs: int
    figures: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)

    @property
    def records(self) -> list[Record]:
        """The records of all rows, in row order; a row that val selected repeats another."""
        return [record for row in self.rows if row.candidates is None for record in row.records]


def out_of_ranks(record: Record) -> str | None:
    """Why a run may stand in no ranking and in no mean over models, None where it may."""
    contract = record["model"].get("contract") or {}
    if contract.get("transductive"):
        return "its features of an image depend on the other images of the batch (transductive)"
    if contract.get("assumed"):
        return "nobody stated the input that its weights were trained on"
    if any(note["code"] == "embeddings_unverified" for note in record["notes"]):
        return "nothing says of which pixels its vectors are, or of which sensors"
    return None


def summary(values: Iterable[float | None]) -> float | Spread | None:
    """The value of one seed, the spread of several; None where there is none or one of them is undefined."""
    found = list(values)
    known = [float(value) for value in found if value is not None]
    if not known or len(known) < len(found):
        return None
    if len(known) == 1:
        return known[0]
    return Spread(mean=statistics.fmean(known), std=statistics.stdev(known), n=len(known))


def shared(values: Iterable[Any]) -> Any:
    """The value that all agree on; different ones as text, joined in order of appearance; None where there is none."""
    found = list(dict.fromkeys(value for value in values if value is not None))
    if len(found) <= 1:
        return found[0] if found else None
    return ", ".join(map(str, found))


def unique(notes: Iterable[Note]) -> tuple[Note, ...]:
    """The notes without repeats, in order of appearance."""
    return tuple(dict.fromkeys(notes))


def verdicts(
    experiment: Experiment, run: PlannedRun, published: list[Published], records: tuple[Record, ...]
) -> tuple[Verdict, ...]:
    """What each gate of a planned run says of the records of one of its rows, mean over seeds.

    Raises BenchError where no published row of the run has the number.
    """
    return tuple(_verdict(experiment, run, gate, published, records) for gate in run.gates)


def _verdict(
    experiment: Experiment, run: PlannedRun, gate: Gate, published: list[Published], records: tuple[Record, ...]
) -> Verdict:
    name = gate.published or gate.metric
    found = next((row for row in published if row.value(name) is not None), None)
    if found is None:
        what = f"{experiment.path}: the gate of '{run.label}' wants {name}, which no published row of the run has"
        raise BenchError(what, "name the number with `published`, or add the row that has it")
    held = [record["metrics"]["legacy" if gate.legacy else "test"] for record in records]
    values = [each.get(gate.metric) if each else None for each in held]
    known = [value for value in values if isinstance(value, int | float)]
    return Verdict(
        metric=gate.metric,
        expected=found.value(name) or 0.0,
        tolerance=gate.tolerance,
        source=found.source,
        measured=statistics.fmean(known) if known and len(known) == len(records) else None,
    )
