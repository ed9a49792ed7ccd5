"""Tables as CSV in full precision, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
import unicodedata

from fgmae_bench.report.columns import COLUMNS
from fgmae_bench.report.formats.common import shown_columns
from fgmae_bench.report.row import Bounds, Row, Spread, Table, Value


def comma_separated(table: Table) -> str:
    """The table as CSV: empty is not known, `_std` follows what varies by seed, `_low` and `_high` bound intervals."""
    names = list(shown_columns(table))
    if "synthetic" not in names:
        names.insert(names.index("dataset") + 1, "synthetic")
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([title for name in names for title in _titles(name)] + ["codes"])
    for row in table.rows:
        cells = [cell for name in names for cell in _cells(name, row)]
        writer.writerow([*cells, ";".join(dict.fromkeys(note.code for note in row.notes))])
    return stream.getvalue()


def _titles(name: str) -> list[str]:
    if name.endswith("_interval"):
        return [name.replace("_interval", "_low"), name.replace("_interval", "_high")]
    return [name, f"{name}_std"] if COLUMNS[name].spread else [name]


def _cells(name: str, row: Row) -> list[str]:
    value = COLUMNS[name].value(row)
    if name.endswith("_interval"):
        return [repr(value.low), repr(value.high)] if isinstance(value, Bounds) else ["", ""]
    if COLUMNS[name].spread:
        return [_plain(value), repr(value.std) if isinstance(value, Spread) else ""]
    return [_plain(value)]


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
    text = "; ".join(dict.fromkeys(note.text.rstrip(".") for note in value)) if isinstance(value, tuple) else str(value)
    return f"'{text}" if begins_formula(text) else text


def begins_formula(text: str) -> bool:
    """Whether a spreadsheet may take it for one: fullwidth signs count, and what a reader does not see is skipped."""
    seen = (letter for letter in unicodedata.normalize("NFKC", text) if letter.isprintable() and not letter.isspace())
    return next(seen, "") in tuple("=+-@")
