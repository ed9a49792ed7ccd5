"""Tables that are made from several others, such as pivots and ranks: plain entries in rows, ready for any format."""

from __future__ import annotations

from dataclasses import dataclass, field

from fgmae_bench.metrics.separation import MARGIN
from fgmae_bench.report.columns import COLUMNS
from fgmae_bench.report.formats.common import EMPTY, readable
from fgmae_bench.report.pivot import Cell, Pivot, Place
from fgmae_bench.report.row import Spread


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A cell: its text, whether it is set in bold, what stands below it where a format has the room, its numbers for
    spreadsheets in the order of the column's `plain` headings.
    """

    text: str = EMPTY
    bold: bool = False
    below: str = ""
    plain: tuple[float | str | None, ...] = ()
    number: bool = True


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A column: its heading, what stands below it, and its headings in a spreadsheet."""

    text: str
    below: str = ""
    plain: tuple[str, ...] = ()
    number: bool = True


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table with the sentences above it and the notes below; `figures` maps captions to files of pictures."""

    name: str
    title: str
    sentences: tuple[str, ...]
    headings: tuple[Heading, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()
    figures: dict[str, str] = field(default_factory=dict)


BEST = (
    "In bold: the models that may be best, which no other is separated above (paired tests over seeds and groups, Holm "
    "over all pairs of the column at 5 %). What is not separated is not thereby equal."
)
SPREAD = (
    "± is the standard deviation over what the second column names; a fit to convergence (L-BFGS) or by neighbours on "
    "given weights has no seed. Intervals are of the test samples, over the groups in the heading, at 95 %."
)
OWN_SCALE = "Rows stand in the order of the experiment files: this is not a ranking."


def of_pivot(pivot: Pivot, figures: dict[str, str]) -> Sheet:
    """A pivot as a sheet: a column a dataset, its interval and distance to the null below the score."""
    head = [
        Heading(text="model", plain=("model",), number=False),
        Heading(text="± over", plain=("spread_over",), number=False),
        *(_heading(pivot, place) for place in pivot.places),
    ]
    rows = tuple(
        (
            Entry(text=line.label, plain=(line.label,), number=False),
            Entry(text=line.over, plain=(line.over,), number=False),
            *(_entry(cell, place) for cell, place in zip(line.cells, pivot.places, strict=True)),
        )
        for line in pivot.lines
    )
    sentences = [OWN_SCALE, SPREAD]
    if any(place.apart is not None for place in pivot.places):
        sentences.append(BEST)
    if any(place.synthetic for place in pivot.places):
        sentences.append("Columns marked synthetic are of a generated world and say nothing about real scenes.")
    nulls = {place.null.label for place in pivot.places if place.null is not None}
    if nulls:
        sentences.append(f"Signed numbers are distances to the null baseline: {', '.join(sorted(nulls))}.")
    return Sheet(
        name=pivot.name,
        title=pivot.title,
        sentences=tuple(sentences),
        headings=tuple(head),
        rows=rows,
        notes=_notes(pivot),
        figures=figures,
    )


def _heading(pivot: Pivot, place: Place) -> Heading:
    stem = "_".join([place.dataset, *place.facts, place.metric]).replace(" ", "_") + "_synthetic" * place.synthetic
    return Heading(
        text=place.heading,
        below="95 % interval, distance to the null",
        plain=tuple(
            f"{stem}{end}" for end in ("", "_std", "_runs", "_low", "_high", "_minus_null", "_may_be_best", "_groups")
        ),
    )


def _entry(cell: Cell | None, place: Place) -> Entry:
    if cell is None:
        return Entry(plain=("", "", "", "", "", "", "", ""))
    value, column = cell.value, COLUMNS[place.metric]
    spread = value if isinstance(value, Spread) else None
    mean = spread.mean if spread else value
    below = [readable(COLUMNS[f"{place.metric}_interval"], cell.bounds)] if cell.bounds else []
    below += [f"{cell.delta:+.3f}"] if cell.delta is not None else []
    return Entry(
        text=readable(column, value),
        bold=bool(cell.best),
        below="; ".join(below),
        plain=(
            mean if isinstance(mean, float) else float(mean),  # type: ignore[arg-type]
            spread.std if spread else None,
            len(cell.row.records),
            cell.bounds.low if cell.bounds else None,
            cell.bounds.high if cell.bounds else None,
            cell.delta,
            "" if cell.best is None else "true" if cell.best else "false",
            place.groups,
        ),
    )


def _notes(pivot: Pivot) -> tuple[str, ...]:
    notes = []
    for c, place in enumerate(pivot.places):
        held = pivot.column(c)
        if place.apart is None:
            notes.append(f"{place.heading}: which may be best was {place.untested or 'not tested'}.")
        else:
            best = sum(bool(cell.best) for _, cell in held)
            same = int(place.apart.equal.sum()) // 2
            all_or = "all" if best == len(held) else f"{best}"
            notes.append(
                f"{place.heading}: {all_or} of {len(held)} may be best; {place.apart.tests} pairs tested, "
                f"{int(place.apart.above.sum())} separated, {same} equal within {MARGIN:g}."
            )
    notes += [f"No column for {line}." for line in pivot.refused]
    notes += [f"{line.label} is not ranked: {line.unranked}." for line in pivot.lines if line.unranked]
    return tuple(notes)
