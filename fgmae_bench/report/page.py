"""The page: one self-contained index.html over all tables, and one script a run with its full record, loaded on demand.

Data stands in the page as JSON that no HTML parser can mistake for markup, one line a row and a run, and reaches the
reader as text only. The page asks the network for nothing, and its security policy forbids that it could.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from fgmae_bench.errors import os_error
from fgmae_bench.records import Record
from fgmae_bench.report import page_data
from fgmae_bench.report.board import Board
from fgmae_bench.report.figures import AXES
from fgmae_bench.report.formats.common import footnotes
from fgmae_bench.report.output import holds
from fgmae_bench.report.page_board import board_data
from fgmae_bench.report.row import Table
from fgmae_bench.system.files import lock_and_clean_up, replacing, write_text

INDEX, RUNS = "index.html", "runs"
SCRIPTS = (
    "page-dom.js",
    "page-address.js",
    "page-chart.js",
    "page-table.js",
    "page-board.js",
    "page-stress.js",
    "page-run.js",
    "page.js",
)
CALL = "fgmaeBenchRun("  # what a side script calls, and how it is known as ours
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_ENDS = re.compile("[<>&\u2028\u2029]")
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def write(tables: list[Table], records: list[Record], out: Path, made: Board | None = None) -> Path:
    """Write `out`/index.html and `out`/runs/<run>.js; side scripts of records that are gone are removed.

    The side scripts come first, so that the page never names one that is not there. Returns the path of the page.
    """
    names = page_data.keys(records)
    text = page(tables, records, made)
    # Reports at once write one after the other: the page and all scripts in the folder are always those of one report.
    with lock_and_clean_up(out / ".report.lock"):
        _write_scripts(out / RUNS, {names[record["sha256"]]: record for record in records})
        if not holds(out / INDEX, text):
            write_text(out / INDEX, text)
        kept = set(names.values())
        for path in (out / RUNS).glob("*.js"):
            if path.stem not in kept and path.is_file() and path.read_bytes().startswith(CALL.encode()):
                path.unlink()
    return out / INDEX


def page(tables: list[Table], records: list[Record], made: Board | None = None) -> str:
    """The page as text, the board first: the same tables and records always give the same."""
    style = _template("page.css")
    script = '"use strict";\n(() => {\n' + "\n".join(map(_template, SCRIPTS)) + "})();\n"
    parts = {
        "style_hash": _source_hash(style),
        "script_hash": _source_hash(script),
        "style": style,
        "script": script,
        "data": data(tables, records, made),
    }
    return re.sub(r"@@(\w+)@@", lambda found: parts[found[1]], _template("page.html"))


def run_script(name: str, record: Record) -> str:
    """The script that hands a run's full record to the page."""
    return f"{CALL}{in_script(name)},\n{in_script(record)});\n"


def data(tables: list[Table], records: list[Record], made: Board | None = None) -> str:
    """The data of the page as JSON, one line a row and a run, safe inside a script element."""
    names = page_data.keys(records)
    used = {record["sha256"] for table in tables for record in table.records}
    rest = page_data.other_runs([record for record in records if record["sha256"] not in used])
    every = [*tables, *([rest] if rest else [])]
    columns = {name: page_data.heading_data(name) for table in every for name in page_data.columns_of(table)}
    metrics = dict.fromkeys(metric for table in every for metric in page_data.curve_metrics(table))
    head = {
        "facets": page_data.FACETS,
        "columns": columns,
        "axes": {metric: AXES.get(metric, metric) for metric in metrics},
        "records": len(records),
        "synthetic": sum(record["dataset"]["synthetic"] for record in records),
    }
    texts = ",\n".join(_table(table, names) for table in every)
    shown = "" if made is None else f'"board":{_board(board_data(made, tables, records, names))},\n'
    runs = _runs(every, names, len(records))
    return f'{{"head":{in_script(head)},\n{shown}"tables":[\n{texts}\n],\n"runs":{{\n{runs}\n}}}}'


def _board(found: dict[str, Any]) -> str:
    """The board as JSON, a line of a pivot on a line of its own."""
    pivots = []
    for pivot in found.pop("pivots"):
        lines = ",\n".join(map(in_script, pivot.pop("lines")))
        pivots.append(f'{in_script(pivot)[:-1]},"lines":[\n{lines}\n]}}')
    together = ",\n".join(pivots)
    return f'{in_script(found)[:-1]},"pivots":[\n{together}\n]}}'


def _table(table: Table, names: dict[str, str]) -> str:
    columns, numbers = page_data.columns_of(table), footnotes(table)
    rows = ",\n".join(in_script(page_data.row_data(row, columns, numbers, names)) for row in table.rows)
    return f'{in_script(page_data.table_data(table))[:-1]},"rows":[\n{rows}\n]}}'


def _runs(tables: list[Table], names: dict[str, str], count: int) -> str:
    """The curves of every run that a table shows, each with the metrics of the tables that show it."""
    wanted: dict[str, tuple[Record, dict[str, None]]] = {}
    for table in tables:
        for record in table.records:
            wanted.setdefault(names[record["sha256"]], (record, {}))[1].update(
                dict.fromkeys(page_data.curve_metrics(table))
            )
    points = page_data.points_of(count)
    lines = [
        f"{in_script(name)}:{in_script(page_data.run_data(record, list(m), points))}"
        for name, (record, m) in wanted.items()
    ]
    return ",\n".join(lines)


def in_script(value: Any) -> str:
    """`value` as JSON on one line in which no HTML or JavaScript parser finds an end or a line break of its own."""
    return _ENDS.sub(lambda found: ESCAPES[found[0]], _JSON.encode(value))


def _template(name: str) -> str:
    return resources.files("fgmae_bench.report").joinpath("templates", name).read_text(encoding="utf-8")


def _source_hash(text: str) -> str:
    """How a content security policy names an inline script or style that it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _write_scripts(folder: Path, runs: dict[str, Record]) -> None:
    """Write the scripts that are not there yet or hold anything else, by rename.

    Without waiting for the disk, which would take seconds for 1,000 files: the next report repairs what a crash tore.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, record in runs.items():
            path, text = folder / f"{name}.js", run_script(name, record)
            if not holds(path, text):
                with replacing(path, durable=False) as temporary:
                    temporary.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise os_error(error, folder) from error
