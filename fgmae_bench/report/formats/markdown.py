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


def index(
    tables: list[Table], formats: list[str], unused: list[str], sheets: list[tuple[str, str]], unranked: list[str]
) -> str:
    """The list of all tables: the board first, then what was measured, and what was not in one list; `unused` names the
    runs whose records belong to no table.
    """
    lines = ["# Tables", "", "Made from the records; not to be edited."]

    def files(name: str) -> str:
        return " ".join(f"[{ending}]({name}.{ending})" for ending in formats)

    if sheets:
        lines += ["", line(["board", "files"]), line(["---"] * 2)]
        lines += [line([escaped(title), files(name)]) for title, name in sheets]
    for sentence in unranked:
        lines += ["", escaped(sentence)]
    measured = [table for table in tables if table.records]
    if measured:
        lines += ["", line(["table", "measured runs", "records", "of them synthetic", "files"]), line(["---"] * 5)]
    for table in measured:
        synthetic = sum(record["dataset"]["synthetic"] for record in table.records)
        runs = f"{table.measured_runs} of {table.planned_runs}"
        lines.append(line([escaped(table.title), runs, str(len(table.records)), str(synthetic), files(table.name)]))
    if not measured:
        lines += ["", "No records yet."]
    gates = [(table, row, gate) for table in tables for row in table.rows for gate in row.gates]
    if gates:
        lines += ["", line(["gate", "run", "expected", "measured", "verdict"]), line(["---"] * 5)]
    for table, row, gate in gates:
        verdict = {True: "passed", False: "missed", None: "not measured"}[gate.passed]
        wanted = f"{gate.metric} {gate.expected:.3f} ± {gate.tolerance:.3f} ({escaped(gate.source)})"
        measured_value = "–" if gate.measured is None else f"{gate.measured:.3f}"
        lines.append(line([escaped(table.title), escaped(row.label), wanted, measured_value, verdict]))
    empty = [f"{escaped(table.title)} ({table.planned_runs} runs)" for table in tables if not table.records]
    if empty:
        lines += ["", f"Planned, nothing measured yet: {'; '.join(empty)}."]
    if unused:
        lines += ["", "Records that belong to no table: " + ", ".join(map(escaped, unused)) + "."]
    return "\n".join(lines) + "\n"
