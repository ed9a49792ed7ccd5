"""Regenerate all tables and figures from the records, with the published numbers.

    python -m fgmae_bench.report --results_dir results --experiments experiments
    python -m fgmae_bench.report compare RUN_A RUN_B      (see its own --help)
    python -m fgmae_bench.report rank --protocol knn      (see its own --help)
    python -m fgmae_bench.report waterfall FILE           (see its own --help)
    python -m fgmae_bench.report regions                  (see its own --help)

Expected: <out>/tables/<name>.md, .csv, .tex and .html for every experiment with records, for a pivot (models x
datasets) and a rank of each protocol, their index,
<out>/figures/<name>-*.png and .svg, and the page <out>/index.html with each run's full record in <out>/runs/. Exit code
0; 1 when a record was broken (it is named and left out) or, with --check, when tables are stale; 2 on bad input.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fgmae_bench.config.flags import Parser
from fgmae_bench.errors import EXIT_DONE, EXIT_FAILED, BenchError, printable, run_entry, unknown
from fgmae_bench.records import Record, all_records
from fgmae_bench.report import output, page, tested
from fgmae_bench.report.all_tables import make_tables
from fgmae_bench.report.board import Board, board, make_tests
from fgmae_bench.report.calibration import with_calibration
from fgmae_bench.report.formats.common import NO_RECORDS
from fgmae_bench.report.formats.markdown import markdown
from fgmae_bench.report.formats.sheets import SHEETS
from fgmae_bench.report.output import FORMATS
from fgmae_bench.report.predictions import with_intervals
from fgmae_bench.report.provenance import Held, each_held, with_origin
from fgmae_bench.report.row import Table

DEFAULT_RESULTS = Path("results")


def parser() -> Parser:
    """The flags of the report."""
    made = Parser("fgmae_bench.report", __doc__)
    made.add_path("results_dir", None, "folder of the records (default: results)")
    text = "folder of the experiment files (default: experiments; without it one table of all runs)"
    made.add_path("experiments", None, text)
    made.add_path("out", None, "folder that gets tables/ and figures/ (default: <results_dir>)")
    made.add_path(
        "published",
        None,
        "published numbers (default: <results_dir>/published/published_results.csv, else the repository's copy)",
    )
    made.add_argument(
        "--pulled", nargs="+", type=Path, metavar="FOLDER", help="others' records too, as board pull left them"
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
        "--separate",
        action="store_true",
        help="test all pairs of each pivot on stored predictions and keep them in separation.json (default: off)",
    )
    made.add_argument(
        "--gates",
        action="store_true",
        help="also list the gates; exit 1 when a published number was missed (default: off)",
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
    if sys.argv[1:2] in (["compare"], ["rank"], ["regions"], ["waterfall"]):
        from fgmae_bench.report import compare, rank, regions, rescored

        commands = {"compare": compare.main, "rank": rank.main, "regions": regions.main, "waterfall": rescored.main}
        _say(commands[sys.argv[1]](sys.argv[2:]))
        return EXIT_DONE
    options = _checked(parser().parse(sys.argv[1:]))
    results_dir: Path = options["results_dir"]
    gc.disable()  # records are many small objects, and none of them is ever garbage
    if options["validate"]:
        found, bad = all_records(results_dir)
        return _validate(len(found), bad)
    held, bad = _held(results_dir, options["pulled"] or [])
    records, unusable = _derived(held, options)
    bad += unusable
    for line in bad:
        _complain(f"left out: {line}")
    tables = make_tables(options["experiments"], results_dir, options["published"], records)
    if options["separate"]:
        path, untested = make_tests(tables, results_dir)
        _say(str(path))
        for line in untested:
            _complain(f"not tested: {line}")
    made = board(tables, records, tested.read(results_dir / tested.FILE))
    out: Path = options["out"] or results_dir
    formats = list(dict.fromkeys(options["formats"]))
    texts = output.texts(tables, made, formats, records, out / "tables")
    code = EXIT_FAILED if bad else EXIT_DONE
    if options["check"]:
        lines = output.stale(texts, formats, out / "tables")
        for line in lines:
            _complain(line)
        return EXIT_FAILED if lines else code
    _write(tables, made, texts, [each.record for each in held], out)
    if options["print"]:
        shown = [table for table in tables if table.records] or tables
        _say("\n".join([*map(SHEETS["md"], made.sheets()), *map(markdown, shown)]))
    if not records:
        _say(f"{results_dir}: {NO_RECORDS}")
    return max(code, _gates(tables)) if options["gates"] else code


def _gates(tables: list[Table]) -> int:
    """Say every gate; the exit code is that of a failure where a number was missed."""
    held = [(table, row, gate) for table in tables for row in table.rows for gate in row.gates]
    for table, row, gate in held:
        _say(f"{table.name}: {row.label}: {gate.words}")
    return EXIT_FAILED if any(gate.passed is False for _, _, gate in held) else EXIT_DONE


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """The options with the folder of results; raises BenchError for a format, a folder or a pair that cannot be."""
    if options["separate"] and options["check"]:
        raise BenchError("--separate writes a file, --check writes nothing", "give one of them")
    if options["validate"] or options["results_dir"]:
        _require_folder(options["results_dir"] or DEFAULT_RESULTS)
    for name in options["formats"]:
        if name not in FORMATS and not options["validate"]:
            raise unknown("format", name, FORMATS)
    return {**options, "results_dir": options["results_dir"] or DEFAULT_RESULTS}


def _write(tables: list[Table], made: Board, texts: dict[Path, str], records: list[Record], out: Path) -> None:
    """Everything that a report leaves."""
    output.remove_empty(tables, made, out / "tables")
    output.write_texts(texts, _say)
    output.write_figures(tables, made, out / "figures", _say)
    _say(str(page.write(tables, records, out, made)))


DERIVED: dict[str, Callable[[Record, Path], Record]] = {"intervals": with_intervals, "calibration": with_calibration}


def _held(results_dir: Path, pulled: list[Path]) -> tuple[list[Held], list[str]]:
    """One's own records and those of pulled folders, and a line for each that is left out."""
    good: list[Held] = []
    bad: list[str] = []
    for each in each_held(results_dir, pulled) if results_dir.is_dir() or pulled else ():
        if isinstance(each, str):
            bad.append(each)
        else:
            good.append(each)
    return good, bad


def _derived(held: list[Held], options: dict[str, Any]) -> tuple[list[Record], list[str]]:
    """The records with what is asked for of their predictions, and a line for each whose predictions are of no use (it
    stays, without).
    """
    found, lines = [with_origin(each) for each in held], []
    for what in (name for name in DERIVED if options[name]):
        for i, record in enumerate(found):
            try:
                found[i] = DERIVED[what](record, held[i].folder)
            except BenchError as error:
                lines.append(f"{what.removesuffix('s')} of {record['run_id']}: {error}")
    return found, lines


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
