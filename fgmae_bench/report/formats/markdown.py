"""Tables in GitHub's Markdown: notes as footnotes, links to figures, and text that stays text."""

from __future__ import annotations

import re

from fgmae_bench.report.columns import COLUMNS
from fgmae_bench.report.formats.common import (
    EMPTY,
    explanations,
    footnotes,
    note_numbers,
    note_texts,
    one_line,
    readable,
    shown_columns,
)
from fgmae_bench.report.row import Note, Row, Table


def escaped(text: str) -> str:
    """Text that Markdown (and the HTML in it) shows as it is, on one line."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~$])", r"\\\1", text)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


def markdown(table: Table) -> str:
    """The table with what must be said above it, its notes and its figures."""
    names, numbers = shown_columns(table), footnotes(table)
    lines = [f"# {escaped(table.title)}", "", f"Protocol: {escaped(table.protocol)}."]
    if table.expect:
        lines += ["", f"Expected: {escaped(table.expect.rstrip('.'))}."]
    for sentence in explanations(table):
        lines += ["", sentence]
    lines += ["", line(list(names)), line(["---"] * len(names))]
    lines += [line([_cell(name, row, numbers) for name in names]) for row in table.rows]
    if numbers:
        lines.append("")
        lines += [f"[^{number}]: {escaped(text)}" for number, text in note_texts(numbers)]
    for metric, file in table.figures.items():
        lines += ["", f"![{metric} over epochs](../figures/{file})"]
    for caption, file in table.pictures.items():
        lines += ["", f"![{escaped(caption)}](../figures/{file})"]
    return "\n".join(lines) + "\n"


def _cell(name: str, row: Row, numbers: dict[Note, int]) -> str:
    value = COLUMNS[name].value(row)
    if name == "remarks":
        return " ".join(f"[^{number}]" for number in note_numbers(row.notes, numbers)) or EMPTY
    return escaped(readable(COLUMNS[name], value))


def line(cells: list[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def index(tables: list[Table], formats: list[str], unused: list[str]) -> str:
    """The list of all tables; `unused` names the runs whose records belong to none of them."""
    lines = ["# Tables", "", "Made from the records; not to be edited.", ""]
    lines += [line(["table", "measured runs", "records", "of them synthetic", "files"]), line(["---"] * 5)]
    for table in tables:
        files = " ".join(f"[{ending}]({table.name}.{ending})" for ending in formats)
        synthetic = sum(record["dataset"]["synthetic"] for record in table.records)
        measured = f"{table.measured_runs} of {table.planned_runs}"
        lines.append(line([escaped(table.title), measured, str(len(table.records)), str(synthetic), files]))
    if not any(table.records for table in tables):
        lines += ["", "No records yet: only published numbers are shown."]
    if unused:
        lines += ["", "Records that belong to no table: " + ", ".join(map(escaped, unused)) + "."]
    return "\n".join(lines) + "\n"
