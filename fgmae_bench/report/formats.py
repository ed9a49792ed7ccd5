"""Writers of tables: a literal registry from the format (the file's ending) to a function from table to text."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable

from fgmae_bench.report.columns import COLUMNS, Column
from fgmae_bench.report.row import Note, Row, Spread, Table, Value

NO_RECORDS = "No records yet: only published numbers are shown."
EMPTY = "–"


def readable(column: Column, value: Value) -> str:
    """A cell as plain text for people: rounded to the column's digits, thousands separated, spreads as mean ± std."""
    if isinstance(value, Spread):
        return f"{_number(column, value.mean)} ± {_number(column, value.std)}"
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


def footnotes(table: Table) -> dict[Note, int]:
    """Numbers of the notes, by first appearance; notes that read the same share one."""
    numbers: dict[str, int] = {}
    return {note: numbers.setdefault(note.text, len(numbers) + 1) for row in table.rows for note in row.notes}


def escaped(text: str) -> str:
    """Text that Markdown (and the HTML in it) shows as it is, on one line."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~$])", r"\\\1", text)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown, with notes as footnotes and links to its figures."""
    repeated = any(len(row.records) > 1 for row in table.rows)
    names = with_columns(table, ("dataset", *(("seeds",) if repeated else ()), "remarks"))
    numbers = footnotes(table)
    lines = [f"# {escaped(table.title)}", "", f"Protocol: {escaped(table.protocol)}."]
    if table.expect:
        lines += ["", f"Expected: {escaped(table.expect.rstrip('.'))}."]
    if not table.records:
        lines += ["", NO_RECORDS]
    if repeated:
        lines += ["", "Where seeds repeat, a value is the mean ± the sample standard deviation over them."]
    lines += ["", _line(list(names)), _line(["---"] * len(names))]
    lines += [_line([_markdown_cell(name, row, numbers) for name in names]) for row in table.rows]
    if numbers:
        lines.append("")
        lines += [f"[^{number}]: {escaped(text)}" for text, number in {note.text: i for note, i in numbers.items()}.items()]
    for metric, file in table.figures.items():
        lines += ["", f"![{metric} over epochs](../figures/{file})"]
    return "\n".join(lines) + "\n"


def _markdown_cell(name: str, row: Row, numbers: dict[Note, int]) -> str:
    value = COLUMNS[name].value(row)
    if isinstance(value, tuple) and value:
        return " ".join(f"[^{number}]" for number in sorted({numbers[note] for note in value}))
    return escaped(readable(COLUMNS[name], value))


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def comma_separated(table: Table) -> str:
    """The table as CSV in full precision: empty = not known, a column `<name>_std` after each that varies by seed."""
    names = with_columns(table, ("dataset", "synthetic", "seeds", "remarks"))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([title for name in names for title in ([name, f"{name}_std"] if COLUMNS[name].spread else [name])])
    for row in table.rows:
        cells: list[str] = []
        for name in names:
            value = COLUMNS[name].value(row)
            cells.append(_plain(value))
            if COLUMNS[name].spread:
                cells.append(repr(value.std) if isinstance(value, Spread) else "")
        writer.writerow(cells)
    return stream.getvalue()


def _plain(value: Value) -> str:
    """A CSV cell; text that a spreadsheet would take for a formula gets a leading apostrophe."""
    if value is None:
        return ""
    if isinstance(value, Spread):
        return repr(value.mean)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = ";".join(dict.fromkeys(note.code for note in value)) if isinstance(value, tuple) else value
    return f"'{text}" if text.lstrip()[:1] in tuple("=+-@") else text


FORMATS: dict[str, Callable[[Table], str]] = {"md": markdown, "csv": comma_separated}


def index(tables: list[Table], formats: list[str], unused: list[str]) -> str:
    """The list of all tables in Markdown; `unused` names the runs whose records belong to none of them."""
    lines = [
        "# Tables",
        "",
        "Made from the records; not to be edited.",
        "",
        _line(["table", "measured runs", "records", "of them synthetic", "files"]),
    ]
    lines.append(_line(["---"] * 5))
    for table in tables:
        files = " ".join(f"[{ending}]({table.name}.{ending})" for ending in formats)
        synthetic = sum(record["dataset"]["synthetic"] for record in table.records)
        measured = f"{table.measured_runs} of {table.planned_runs}"
        lines.append(_line([escaped(table.title), measured, str(len(table.records)), str(synthetic), files]))
    if not any(table.records for table in tables):
        lines += ["", NO_RECORDS]
    if unused:
        lines += ["", "Records that belong to no table: " + ", ".join(map(escaped, unused)) + "."]
    return "\n".join(lines) + "\n"
