"""What all writers of tables share: which columns stand there, how a cell reads, and how notes are numbered."""

from __future__ import annotations

from collections.abc import Iterable

from fgmae_bench.metrics.table import METRICS
from fgmae_bench.report.chosen import few_labels
from fgmae_bench.report.columns import COLUMNS, REQUIRED, Column
from fgmae_bench.report.row import Bounds, Note, Row, Spread, Table, Value

NO_RECORDS = "No records yet: only published numbers are shown."
SYNTHETIC = "Rows marked (synthetic) were measured on a generated world and say nothing about real scenes."
SEEDS = "Where seeds repeat, a value is the mean ± the sample standard deviation over them."
DRAWS = "Where labels are few, which they are is drawn anew by each seed and draw: their ± holds that too."
INTERVALS = (
    "Intervals are of the test samples, for the head as trained, at 95 %, over groups (scenes, blocks) where they are "
    "known, else over samples: the notes of a row say over what, and why an interval is withheld. What seeds change "
    "stands beside the value as ±."
)
TOTALS = "Total intervals are over seeds and test samples together: what other weights would give elsewhere."
EMPTY = "–"


def readable(column: Column, value: Value) -> str:
    """A cell as plain text for people: rounded to the column's digits, thousands separated, spreads as mean ± std."""
    if isinstance(value, Spread):
        return f"{_number(column, value.mean)} ± {_number(column, value.std)}"
    if isinstance(value, Bounds):
        return f"{_number(column, value.low)} to {_number(column, value.high)}"
    if value is None or value == ():
        return EMPTY
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _number(column, value) if isinstance(value, int | float) else str(value)


def _number(column: Column, value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if column.digits is None:
        return f"{value:g}"
    return f"{round(value, column.digits) + 0.0:{'+' if column.signed else ''},.{column.digits}f}"


def with_columns(table: Table, names: tuple[str, ...]) -> tuple[str, ...]:
    """The layout's columns with those of `names` that it lacks: the dataset in front, others behind."""
    lacking = [name for name in names if name not in table.columns]
    front = tuple(name for name in lacking if name == "dataset")
    return (*front, *table.columns, *(name for name in lacking if name != "dataset"))


def shown_columns(table: Table) -> tuple[str, ...]:
    """The columns of every readable format: the layout's, the required ones, intervals where known, remarks last."""
    names = [name for name in with_columns(table, REQUIRED) if name != "remarks"]
    known = any(record["metrics"]["intervals"] for record in table.records)
    found = []
    for name in names:
        interval = f"{name}_interval"
        wanted = interval in COLUMNS and interval not in names and (known or name not in METRICS)
        wanted = wanted and any(map(COLUMNS[interval].value, table.rows))
        found += [name, interval] if wanted else [name]
    return (*found, "remarks")


def asked_columns(table: Table) -> tuple[str, ...]:
    """The columns of a paper's table: those that its layout asks for, and the dataset where a row is synthetic."""
    marked = table.columns if "dataset" in table.columns or not any(row.synthetic for row in table.rows) else ()
    return marked or ("dataset", *table.columns)


def explanations(table: Table) -> list[str]:
    """Sentences that a table needs to be read rightly."""
    found = [] if table.records else [NO_RECORDS]
    if any(row.synthetic for row in table.rows):
        found.append(SYNTHETIC)
    if any(len(row.records) > 1 for row in table.rows):
        found.append(SEEDS)
    if any(few_labels(row.records[0]) for row in table.rows if len(row.records) > 1):
        found.append(DRAWS)
    shown = shown_columns(table)
    if any(name.endswith("_interval") for name in shown):
        found.append(INTERVALS)
    if any(name.endswith("_total_interval") for name in shown):
        found.append(TOTALS)
    return found


def footnotes(table: Table) -> dict[Note, int]:
    """Numbers of the notes, by first appearance; notes that read the same share one."""
    numbers: dict[str, int] = {}
    return {note: numbers.setdefault(note.text, len(numbers) + 1) for row in table.rows for note in row.notes}


def note_texts(numbers: dict[Note, int]) -> list[tuple[int, str]]:
    """(number, text) of each footnote once."""
    return list({number: (number, note.text) for note, number in numbers.items()}.values())


def note_numbers(notes: Iterable[Note], numbers: dict[Note, int]) -> list[int]:
    """The numbers of a row's notes in order, each once."""
    return sorted({numbers[note] for note in notes})


def one_line(text: str) -> str:
    """Text on one line, characters that show nothing left out."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def is_number(row: Row, name: str) -> bool:
    """True where a cell holds a number or what is made of them."""
    value = COLUMNS[name].value(row)
    return isinstance(value, int | float | Spread | Bounds) and not isinstance(value, bool)
