"""`report compare A B`: are two runs on the same test samples different, and by how much?

    python -m fgmae_bench.report compare RUN_A RUN_B [RUN_C ...] [--metric oa]
    python -m fgmae_bench.report compare --table eurosat_linear

Runs are run ids or paths of records; the first is compared with each other one. Of a table's row with several seeds
only the first seed is compared: to compare other seeds, name their runs. Groups (tiles, scenes) are drawn where the
predictions name them, else samples; accuracy on independent samples is tested by McNemar's mid-p. p-values of all cells
are corrected together (Holm), and stars are given only after that: * below .05, ** below .01, *** below .001.
Exit code 0; 2 where runs were tested on different samples, or predictions are missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fgmae_bench.config.experiments import load_experiment
from fgmae_bench.config.flags import Parser, spellings
from fgmae_bench.errors import BenchError, closest
from fgmae_bench.metrics.intervals import LEVEL, Difference, paired_differences
from fgmae_bench.metrics.significance import holm, mcnemar_mid_p
from fgmae_bench.records import Record, all_records, read_record
from fgmae_bench.report.predictions import Predictions, find_predictions, read_predictions, same_test
from fgmae_bench.report.row import out_of_ranks
from fgmae_bench.report.table import build

STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
BOOTSTRAP, MCNEMAR = "paired bootstrap", "McNemar mid-p"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One cell: a metric of two runs, the test that was made, and its p-value after Holm."""

    a: str
    b: str
    metric: str
    difference: Difference
    test: str
    adjusted: float | None = None


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A run that may be compared: its name in the output, its record, and its predictions."""

    name: str
    record: Record
    predictions: Path
    seeds: int = 1  # of the table's row that it stands for


def parser() -> Parser:
    """The flags of `report compare`."""
    made = Parser(
        prog="fgmae_bench.report compare",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "runs", nargs="*", metavar="RUN", help="run ids or paths of records; the first is compared with the others"
    )
    made.add_argument(
        "--metric", nargs="+", default=[], metavar="METRIC", help="metrics to compare (default: all that the runs have)"
    )
    text = "compare the rows of this experiment's table, of each row the first seed only (default: the runs named)"
    made.add_argument("--table", metavar="NAME", help=text)
    for name, default, text in (
        ("results_dir", "results", "folder of records and predictions"),
        ("experiments", "experiments", "folder of the experiment files"),
    ):
        made.add_argument(
            *spellings(name),
            dest=name,
            type=Path,
            default=Path(default),
            metavar="PATH",
            help=f"{text} (default: {default})",
        )
    return made


def main(argv: list[str]) -> str:
    """Run the command line; returns what it says."""
    options = parser().parse(argv)
    results_dir: Path = options["results_dir"]
    chosen = [find_run(name, results_dir) for name in options["runs"]]
    if options["table"]:
        named = {candidate.record["run_id"] for candidate in chosen}
        chosen += [
            each
            for each in of_table(options["table"], options["experiments"], results_dir)
            if each.record["run_id"] not in named
        ]
    if len(chosen) < 2:
        raise BenchError(
            f"{len(chosen)} runs to compare", "name two run ids or records, or a --table with two measured rows"
        )
    _require_different(chosen)
    return words(chosen, *compare(chosen, options["metric"], skip=bool(options["table"])))


def _require_different(chosen: list[Candidate]) -> None:
    """Raise BenchError where a record is named twice: it does not differ from itself."""
    seen: set[str] = set()
    for each in chosen:
        if each.record["sha256"] in seen:
            raise BenchError(f"the record of run {each.name} is named twice", "name different runs")
        seen.add(each.record["sha256"])


def find_run(name: str, results_dir: Path) -> Candidate:
    """A run by its id or by the path of its record; raises BenchError where there is none or several."""
    path = Path(name)
    if not name.endswith(".json"):
        found = (
            sorted((results_dir / "records").glob(f"*/*/{name}.json"))
            if "/" not in name and not set(name) & set("*?[")
            else []
        )
        if len(found) != 1:
            every = [each.stem for each in (results_dir / "records").glob("*/*/*.json")]
            if found:
                raise BenchError(f"{len(found)} records of {name} below {results_dir}", "give the path of one")
            raise BenchError(f"no record of run '{name}' below {results_dir}", _near(name, every))
        path = found[0]
    record = read_record(path)
    stored = path.parent / "predictions-test.safetensors"
    if path.name == "record.json" and stored.is_file():
        return Candidate(name=record["run_id"], record=record, predictions=stored)
    return candidate(record["run_id"], record, path.parents[3] if path.match("records/*/*/*.json") else results_dir)


def _near(name: str, every: list[str]) -> str:
    """The runs whose ids look most like `name`: a store may hold thousands."""
    near = difflib.get_close_matches(name, every, n=3, cutoff=0.3)
    return f"did you mean {' or '.join(near)}?" if near else "give its folder with --results_dir"


def candidate(name: str, record: Record, results_dir: Path) -> Candidate:
    """A record with its predictions."""
    return Candidate(name=name, record=record, predictions=find_predictions(record, results_dir))


def of_table(name: str, experiments: Path, results_dir: Path) -> list[Candidate]:
    """The measured rows of a table, the first seed of each, where predictions are stored."""
    path = experiments / f"{name}.toml"
    if not path.is_file():
        raise BenchError(
            f"no experiment '{name}' in {experiments}",
            closest(name, [each.stem for each in experiments.glob("*.toml")]),
        )
    experiment = load_experiment(path)
    records = [record for _, record in all_records(results_dir)[0]]
    rows = [
        row
        for row in build(experiment, records, [[] for _ in experiment.runs]).rows
        if row.records and row.records[0]["predictions"]
    ]
    return [
        dataclasses.replace(candidate(row.records[0]["run_id"], row.records[0], results_dir), seeds=len(row.records))
        for row in rows
    ]


def compare(
    runs: list[Candidate], metrics: list[str], *, skip: bool = False
) -> tuple[list[Pair], list[str], Predictions]:
    """(cells after Holm, sentences on runs left out, predictions of the first); `skip`: leave out other samples."""
    first, *others = runs
    base = read_predictions(first.record, first.predictions)
    base_units, cells, left_out = base.units(), [], []
    for other in others:
        try:
            require_same_content(first, other)
            mine = same_test(base, read_predictions(other.record, other.predictions), (first.name, other.name))
        except BenchError as error:
            if not skip:
                raise
            left_out.append(f"left out: {error.what}")
            continue
        found = paired_differences(base_units, mine.units())
        for metric in metrics or found:
            if metric not in found:
                raise BenchError(f"the runs have no metric '{metric}'", closest(metric, found))
            cells.append(_cell(first.name, other.name, metric, found[metric], base, mine))
    adjusted = holm([cell.difference.p for cell in cells])
    return [dataclasses.replace(cell, adjusted=p) for cell, p in zip(cells, adjusted, strict=True)], left_out, base


def require_same_content(a: Candidate, b: Candidate) -> None:
    """Raise BenchError unless two runs were tested on the same pixels and labels: names of files prove nothing.

    A pack of eight bits that says what it was made of counts as its source.
    """
    held = [each.record["dataset"].get("content_sha256") for each in (a, b)]
    for each, content in zip((a, b), held, strict=True):
        if content is None:
            what = f"the record of {each.name} is of an older version and does not say of which pixels it is"
            raise BenchError(what, "run it again, and compare the new records")
    sources = [each.record["dataset"].get("source_content_sha256") or {} for each in (a, b)]
    tested = [
        {content["test"], source.get("test", content["test"])} for content, source in zip(held, sources, strict=True)
    ]
    if not tested[0] & tested[1]:
        what = f"{a.name} and {b.name} were tested on other pixels or labels"
        raise BenchError(what, "compare runs on one and the same test data")


def _cell(a: str, b: str, metric: str, difference: Difference, first: Predictions, second: Predictions) -> Pair:
    if metric == "oa" and first.kind == "single_label" and first.groups is None and first.targets is not None:
        right = [each.scores.argmax(1) == first.targets for each in (first, second)]
        p = mcnemar_mid_p(int(np.sum(right[0] & ~right[1])), int(np.sum(right[1] & ~right[0])))
        return Pair(a=a, b=b, metric=metric, difference=dataclasses.replace(difference, p=p), test=MCNEMAR)
    return Pair(a=a, b=b, metric=metric, difference=difference, test=BOOTSTRAP)


def words(runs: list[Candidate], cells: list[Pair], left_out: list[str], base: Predictions) -> str:
    """The comparison as text."""
    groups = len(set(base.groups)) if base.groups else 0
    drawn = (
        f"drawn as {groups:,} groups"
        if groups
        else "drawn one by one: no groups are known, so neighbours that look alike are not allowed for"
    )
    lines = [f"{len(base.ids):,} test samples, {drawn}.", *left_out]
    several = sum(run.seeds > 1 for run in runs)
    if several:
        lines.append(f"Of each row only the first seed is compared: {several} of the rows hold several seeds.")
    if any(run.record["dataset"]["synthetic"] for run in runs):
        lines.append("Synthetic data: the differences say nothing about real scenes.")
    lines += [f"{run.name} is in no rank: {reason}." for run in runs if (reason := out_of_ranks(run.record))]
    lines.append(f"A = {cells[0].a if cells else runs[0].name}")
    width = max([len(cell.b) for cell in cells] or [1])
    lines.append(
        f"{'B':<{width}}  {'metric':<10} {'A':>6} {'B':>6} {'A - B':>7}  {f'{LEVEL:.0%} interval':<16} "
        f"{'p':>7} {'p (Holm)':>8}      test"
    )
    lines += [_line(cell, width) for cell in cells]
    lines.append(
        f"Holm over {sum(cell.difference.p is not None for cell in cells)} cells; * below .05, ** below .01, "
        "*** below .001 after it."
    )
    return "\n".join(lines)


def _line(cell: Pair, width: int) -> str:
    d, adjusted = cell.difference, cell.adjusted
    bounds = f"{d.low:+.3f} to {d.high:+.3f}" if d.low is not None else "–"
    stars = next((mark for bound, mark in STARS if adjusted is not None and adjusted < bound), "")
    gap = _shown(d.a - d.b, "+.3f")
    values = f"{_shown(d.a, '.3f'):>6} {_shown(d.b, '.3f'):>6} {gap:>7}  {bounds:<16}"
    return f"{cell.b:<{width}}  {cell.metric:<10} {values} {_p(d.p):>7} {_p(adjusted):>8} {stars:<4} {cell.test}"


def _shown(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "–"


def _p(value: float | None) -> str:
    return "–" if value is None else "<.0001" if value < 0.0001 else f"{value:.4f}"
