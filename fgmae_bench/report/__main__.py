"""Regenerate all tables and figures from the records, with the published numbers.

    python -m fgmae_bench.report --results_dir results --experiments experiments
    python -m fgmae_bench.report compare RUN_A RUN_B      (see its own --help)
    python -m fgmae_bench.report regions                  (see its own --help)

Expected: <out>/tables/<name>.md, .csv, .tex and .html for every experiment, their index,
<out>/figures/<name>-*.png and .svg, and the page <out>/index.html with each run's full record in <out>/runs/. Exit code
0; 1 when a record was broken (it is named and left out) or, with --check, when tables are stale; 2 on bad input.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fgmae_bench.config.experiments import Experiment, load_experiments
from fgmae_bench.config.flags import Parser, spellings
from fgmae_bench.errors import EXIT_DONE, EXIT_FAILED, BenchError, printable, run_entry, unknown
from fgmae_bench.records import Record, all_records
from fgmae_bench.report import figures, output, page, pictures, published
from fgmae_bench.report.calibration import with_calibration
from fgmae_bench.report.formats.common import NO_RECORDS
from fgmae_bench.report.formats.markdown import markdown
from fgmae_bench.report.output import FORMATS
from fgmae_bench.report.page_data import other_runs
from fgmae_bench.report.predictions import with_intervals
from fgmae_bench.report.row import Table
from fgmae_bench.report.table import build

DEFAULT_RESULTS, DEFAULT_EXPERIMENTS = Path("results"), Path("experiments")


def parser() -> Parser:
    """The flags of the report."""
    made = Parser(
        prog="fgmae_bench.report",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def path(name: str, default: str | None, text: str) -> None:
        made.add_argument(
            *spellings(name), dest=name, type=Path, default=default and Path(default), metavar="PATH", help=text
        )

    path("results_dir", None, "folder of the records (default: results)")
    path("experiments", None, "folder of the experiment files (default: experiments; without it one table of all runs)")
    path("out", None, "folder that gets tables/ and figures/ (default: <results_dir>)")
    path(
        "published",
        None,
        "published numbers (default: <results_dir>/published/published_results.csv, else the repository's copy)",
    )
    choices = " ".join(FORMATS)
    made.add_argument(
        "--formats", nargs="+", default=list(FORMATS), metavar="FORMAT", help=f"table formats (default: {choices})"
    )
    made.add_argument(
        "--intervals", action="store_true", help="fill in missing test intervals from stored predictions (default: off)"
    )
    made.add_argument(
        "--calibration",
        action="store_true",
        help="derive calibration from stored predictions: columns, reliability and risk (default: off)",
    )
    made.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when tables on disk are stale (default: off)"
    )
    made.add_argument(
        "--validate", action="store_true", help="only check every record's schema and hash (default: off)"
    )
    made.add_argument("--print", action="store_true", help="also print the tables as Markdown (default: off)")
    return made


def main() -> int:
    """Run the command line; returns the exit code."""
    if sys.argv[1:2] == ["compare"]:
        from fgmae_bench.report import compare

        _say(compare.main(sys.argv[2:]))
        return EXIT_DONE
    if sys.argv[1:2] == ["regions"]:
        from fgmae_bench.report import regions

        _say(regions.main(sys.argv[2:]))
        return EXIT_DONE
    options = parser().parse(sys.argv[1:])
    if options["validate"] or options["results_dir"]:
        _require_folder(options["results_dir"] or DEFAULT_RESULTS)
    results_dir = options["results_dir"] = options["results_dir"] or DEFAULT_RESULTS
    gc.disable()  # records are many small objects, and none of them is ever garbage
    found, bad = all_records(results_dir)
    if options["validate"]:
        return _validate(len(found), bad)
    for name in options["formats"]:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)
    formats = list(dict.fromkeys(options["formats"]))
    records, unusable = _derived([record for _, record in found], results_dir, options)
    bad += unusable
    for line in bad:
        _complain(f"left out: {line}")
    tables = _tables(options, records)
    out: Path = options["out"] or results_dir
    texts = output.texts(tables, formats, records, out / "tables")
    code = EXIT_FAILED if bad else EXIT_DONE
    if options["check"]:
        lines = output.stale(texts, formats, out / "tables")
        for line in lines:
            _complain(line)
        return EXIT_FAILED if lines else code
    output.write_texts(texts, _say)
    output.write_figures(tables, out / "figures", _say)
    _say(str(page.write(tables, [record for _, record in found], out)))
    if options["print"]:
        _say("\n".join(map(markdown, tables)))
    if not records:
        _say(f"{results_dir}: {NO_RECORDS}")
    return code


DERIVED: dict[str, Callable[[Record, Path], Record]] = {"intervals": with_intervals, "calibration": with_calibration}


def _derived(records: list[Record], results_dir: Path, options: dict[str, Any]) -> tuple[list[Record], list[str]]:
    """The records with what is asked for of their predictions, and a line for each whose predictions are of no use (it
    stays, without).
    """
    found, lines = list(records), []
    for what in (name for name in DERIVED if options[name]):
        for i, record in enumerate(found):
            try:
                found[i] = DERIVED[what](record, results_dir)
            except BenchError as error:
                lines.append(f"{what.removesuffix('s')} of {record['run_id']}: {error}")
    return found, lines


def _tables(options: dict[str, Any], records: list[Record]) -> list[Table]:
    """The tables of all experiments; of all runs where there is no folder of experiments and none was named."""
    if options["experiments"] is None and not DEFAULT_EXPERIMENTS.exists():
        every = other_runs(records, "All runs")
        return [_drawn(every, tuple(every.figures))] if every else []
    options["experiments"] = options["experiments"] or DEFAULT_EXPERIMENTS
    experiments = load_experiments(options["experiments"])
    if not experiments:
        raise BenchError(f"{options['experiments']} holds no experiment files", "give their folder with --experiments")
    named = any(run.published for experiment in experiments for run in experiment.runs)
    source = options["published"] or published.default_path(options["results_dir"])
    rows = published.read_rows(source) if named or options["published"] else []
    return [_table(experiment, records, rows) for experiment in experiments]


def _table(experiment: Experiment, records: list[Record], rows: list[dict[str, str]]) -> Table:
    return _drawn(build(experiment, records, published.for_runs(experiment, rows)), experiment.layout.curves)


def _drawn(table: Table, curves: tuple[str, ...]) -> Table:
    """The table with the figures that its records have points for."""
    return dataclasses.replace(table, figures=figures.drawable(table, curves), pictures=pictures.available(table))


def _require_folder(results_dir: Path) -> None:
    """Raise BenchError where there is none: a mistyped name is not made a folder of empty tables."""
    if not results_dir.is_dir():
        raise BenchError(f"{results_dir} is not a folder", "give the folder of the results with --results_dir")


def _validate(good: int, bad: list[str]) -> int:
    """Name every record that is not valid."""
    for line in bad:
        _complain(line)
    _say(f"{good} valid records, {len(bad)} broken")
    return EXIT_FAILED if bad else EXIT_DONE


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _complain(text: str) -> None:
    sys.stderr.write(printable(" ".join(text.split())) + "\n")


if __name__ == "__main__":
    run_entry(main)
