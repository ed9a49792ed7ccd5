"""The grid of labels as values: what each cell can reach, what it did reach, and what is said of it in the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from fgmae_bench.ablate.references import LabelCounts, Reference, class_counts, reference
from fgmae_bench.ablate.sides import Cell, shared_classes
from fgmae_bench.config.cards import Card
from fgmae_bench.metrics.segmentation import METRICS
from fgmae_bench.records import Record

METRIC = "miou"


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A cell with its references, None where it cannot be run, and its record once there is one."""

    cell: Cell
    reference: Reference | None
    shared: int  # classes that both schemes have by name
    record: Record | None = None

    def value(self, kind: str, metric: str = METRIC) -> float | None:
        """A score: `measured`, or of the `perfect` or `constant` predictor."""
        if kind == "measured":
            return self.record["metrics"]["test"].get(metric) if self.record else None
        scores = getattr(self.reference, kind) if self.reference else None
        return scores[metric] if scores else None


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """All cells of a grid, in the order of the training sides."""

    card: Card
    cells: tuple[Filled, ...]
    synthetic: bool

    @property
    def title(self) -> str:
        """What tables and figures are headed with."""
        return f"Label sources and schemes on {self.card.title}" + (" (synthetic data)" if self.synthetic else "")

    @property
    def rows(self) -> list[str]:
        """Names of the training sides."""
        return list(dict.fromkeys(filled.cell.train.name for filled in self.cells))

    @property
    def columns(self) -> list[str]:
        """Names of the evaluation sides."""
        return list(dict.fromkeys(filled.cell.evaluated.name for filled in self.cells))

    def values(self, kind: str) -> list[list[float | None]]:
        """mIoU by row and column."""
        by_name = {(filled.cell.train.name, filled.cell.evaluated.name): filled.value(kind) for filled in self.cells}
        return [[by_name[row, column] for column in self.columns] for row in self.rows]

    def reasons(self) -> dict[str, str]:
        """Why cells were not run, by the names of their sides."""
        return {_pair(filled): filled.cell.reason for filled in self.cells if filled.cell.reason}

    def before(self) -> str:
        """What each cell can reach, for the terminal."""
        lines = [self.title, "mIoU over reference classes that labels alone allow; then the runs:"]
        lines += [f"  {_pair(filled):<64}{_allowed(filled)}" for filled in self.cells]
        return "\n".join(lines)

    def after(self) -> str:
        """What was measured, for the terminal."""
        mark = "  [synthetic data]" if self.synthetic else ""
        return "\n".join(
            f"  {_pair(filled):<64}mIoU {shown(filled.value('measured'))}  perfect {shown(filled.value('perfect'))}  "
            f"constant {shown(filled.value('constant'))}  {filled.record['run_id']}{mark}"
            for filled in self.cells
            if filled.record
        )


def filled(card: Card, cell: Cell, counts: LabelCounts) -> Filled:
    """A cell with its references on this data, or with the reason why there are none."""
    reason = cell.reason or _absent(card, cell, counts)
    if reason is not None:
        return Filled(cell=dataclasses.replace(cell, reason=reason), reference=None, shared=0)
    return Filled(cell=cell, reference=reference(card, cell, counts), shared=shared_classes(card, cell))


def rows_of(matrix: Matrix) -> list[dict[str, str | int | float | bool | None]]:
    """One flat row a cell, for a CSV file."""
    rows: list[dict[str, str | int | float | bool | None]] = []
    for each in matrix.cells:
        train, evaluated, held = each.cell.train, each.cell.evaluated, each.reference
        rows.append(
            {
                "train_labels": train.source,
                "train_scheme": train.scheme,
                "train_mapped_twice": train.double,
                "eval_labels": evaluated.source,
                "eval_scheme": evaluated.scheme,
                "eval_mapped_twice": evaluated.double,
                **{metric: each.value("measured", metric) for metric in METRICS},
                **{
                    f"{kind}_{metric}": each.value(kind, metric)
                    for kind in ("perfect", "constant")
                    for metric in METRICS[:3]
                },
                "constant_class": held.constant_class if held else None,
                "shared_classes": each.shared if held else None,
                "run_id": each.record["run_id"] if each.record else None,
                "status": each.record["status"] if each.record else "not run",
                "reason": each.cell.reason,
                "synthetic": matrix.synthetic,
            }
        )
    return rows


def shown(value: float | None, form: Callable[[float], str] = "{:.3f}".format) -> str:
    """A score with three decimals, a dash where there is none."""
    return "–" if value is None else form(value)


def _pair(filled: Filled) -> str:
    return f"{filled.cell.train.name} -> {filled.cell.evaluated.name}"


def _allowed(filled: Filled) -> str:
    held = filled.reference
    if held is None:
        return f"not run: {filled.cell.reason}"
    return f"perfect {shown(filled.value('perfect'))}  constant {held.constant_class} {shown(filled.value('constant'))}"


def _absent(card: Card, cell: Cell, counts: LabelCounts) -> str | None:
    """Which labels the data lacks for a cell."""
    for side, part, verb in ((cell.train, "train", "trained on"), (cell.evaluated, "test", "scored")):
        if counts.missing(side.source, part):
            return f"images that are {verb} have no {side.source} labels here"
        if not class_counts(card, side, counts.codes(side.source, part)).any():
            return f"no pixel of the {part} split has a class of {side.name}"
    return None
