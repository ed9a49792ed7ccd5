"""Regenerate all tables and figures from the records, beside the published numbers.

    python -m fgmae_bench.report --results_dir results --experiments experiments

Expected: <out>/tables/<name>.md and .csv for every experiment, an index beside them, and <out>/figures/<name>-<metric>.png.
Exit code 0; 1 when a record was broken (it is named and left out) or, with --check, when tables are stale; 2 on bad input.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from fgmae_bench.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED, BenchError, run_entry, unknown
from fgmae_bench.experiments import Experiment, load_experiments
from fgmae_bench.files import write_text
from fgmae_bench.flags import Parser, spellings
from fgmae_bench.records import Record, all_records
from fgmae_bench.report import figures, published
from fgmae_bench.report.columns import check_columns
from fgmae_bench.report.formats import FORMATS, NO_RECORDS, index, markdown
from fgmae_bench.report.row import Table
from fgmae_bench.report.table import build


def parser() -> Parser:
    """The flags of the report."""
    made = Parser(prog="fgmae_bench.report", description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)

    def path(name: str, default: str | None, text: str) -> None:
        made.add_argument(*spellings(name), dest=name, type=Path, default=default and Path(default), metavar="PATH", help=text)

    path("results_dir", "results", "folder of the records (default: results)")
    path("experiments", "experiments", "folder of the experiment files (default: experiments)")
    path("out", None, "folder that gets tables/ and figures/ (default: <results_dir>)")
    path("published", None, "published numbers (default: <results_dir>/published/published_results.csv, else the repository's copy)")
    choices = " ".join(FORMATS)
    made.add_argument("--formats", nargs="+", default=list(FORMATS), metavar="FORMAT", help=f"table formats (default: {choices})")
    made.add_argument("--check", action="store_true", help="write nothing; exit 1 when tables on disk are stale (default: off)")
    made.add_argument("--validate", action="store_true", help="only check every record's schema and hash (default: off)")
    made.add_argument("--print", action="store_true", help="also print the tables as Markdown (default: off)")
    return made


def main() -> int:
    """Run the command line; returns the exit code."""
    options = parser().parse(sys.argv[1:])
    results_dir: Path = options["results_dir"]
    found, bad = all_records(results_dir)
    if options["validate"]:
        return _validate(results_dir, len(found), bad)
    for name in options["formats"]:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)
    formats = list(dict.fromkeys(options["formats"]))
    for line in bad:
        _complain(f"left out: {line}")
    records = [record for _, record in found]
    tables = _tables(options, records)
    out: Path = options["out"] or results_dir
    texts = _texts(tables, formats, records, out / "tables")
    if options["check"]:
        return max(_check(texts, formats, out / "tables"), EXIT_FAILED if bad else EXIT_DONE)
    _write(tables, texts, out)
    if options["print"]:
        _say("\n".join(map(markdown, tables)))
    if not records:
        _say(f"{results_dir}: {NO_RECORDS}")
    return EXIT_FAILED if bad else EXIT_DONE


def _tables(options: dict[str, Any], records: list[Record]) -> list[Table]:
    """The tables of all experiments; every layout is checked before anything is written."""
    experiments = load_experiments(options["experiments"])
    if not experiments:
        raise BenchError(f"{options['experiments']} holds no experiment files", "give their folder with --experiments")
    for experiment in experiments:
        check_columns(experiment)
        figures.check_curves(experiment)
    named = any(run.published for experiment in experiments for run in experiment.runs)
    source = options["published"] or published.default_path(options["results_dir"])
    rows = published.read_rows(source) if named else []
    return [_table(experiment, records, rows) for experiment in experiments]


def _table(experiment: Experiment, records: list[Record], rows: list[dict[str, str]]) -> Table:
    table = build(experiment, records, published.for_runs(experiment, rows))
    return dataclasses.replace(table, figures=figures.drawable(table, experiment.layout.curves))


def _texts(tables: list[Table], formats: list[str], records: list[Record], folder: Path) -> dict[Path, str]:
    """All text files by path: each table in each format, and the index."""
    texts = {folder / f"{table.name}.{name}": FORMATS[name](table) for table in tables for name in formats}
    used = {record["sha256"] for table in tables for record in table.records}
    unused = [record["run_id"] for record in records if record["sha256"] not in used]
    return {**texts, folder / "README.md": index(tables, formats, unused)}


def _write(tables: list[Table], texts: dict[Path, str], out: Path) -> None:
    """Write tables and figures; a figure of these tables that has no curves any more is removed."""
    for path, text in texts.items():
        write_text(path, text)
        _say(str(path))
    for table in tables:
        for metric in figures.AXES:
            path = out / "figures" / figures.file_name(table.name, metric)
            if metric in table.figures:
                figures.draw(table, metric, path)
                _say(str(path))
            elif path.is_file():
                path.unlink()


def _check(texts: dict[Path, str], formats: list[str], folder: Path) -> int:
    """Name the tables on disk that differ from what the records give, and those that no experiment gives any more."""
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_bytes() != text.encode()]
    for path in stale:
        _complain(f"stale: {path}; write it with python -m fgmae_bench.report")
    left = [path for name in formats for path in sorted(folder.glob(f"*.{name}")) if path not in texts]
    for path in left:
        _complain(f"stale: {path} belongs to no experiment; remove it")
    return EXIT_FAILED if stale or left else EXIT_DONE


def _validate(results_dir: Path, good: int, bad: list[str]) -> int:
    """Name every record that is not valid."""
    if not results_dir.is_dir():
        _complain(f"error: {results_dir} is not a folder; give the folder of the results with --results_dir")
        return EXIT_BAD_INPUT
    for line in bad:
        _complain(line)
    _say(f"{good} valid records, {len(bad)} broken")
    return EXIT_FAILED if bad else EXIT_DONE


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _complain(text: str) -> None:
    sys.stderr.write(" ".join(text.split()) + "\n")


if __name__ == "__main__":
    run_entry(main)
