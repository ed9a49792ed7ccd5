"""The tables of all experiments of a folder, with the published numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fgmae_bench.config.experiments import Experiment, load_experiments
from fgmae_bench.errors import BenchError
from fgmae_bench.records import Record
from fgmae_bench.report import figures, pictures, published
from fgmae_bench.report.page_data import other_runs
from fgmae_bench.report.row import Table
from fgmae_bench.report.table import build, unplanned

DEFAULT_EXPERIMENTS = Path("experiments")


def make_tables(folder: Path | None, results_dir: Path, source: Path | None, records: list[Record]) -> list[Table]:
    """The tables of all experiments of a folder; of all runs where there is none and none was named. `source` holds the
    published numbers (None: those of the results).
    """
    if folder is None and not DEFAULT_EXPERIMENTS.exists():
        every = other_runs(records, "All runs", unplanned(records))
        return [_drawn(every, tuple(every.figures))] if every else []
    folder = folder or DEFAULT_EXPERIMENTS
    experiments = load_experiments(folder)
    if not experiments:
        raise BenchError(f"{folder} holds no experiment files", "give their folder with --experiments")
    named = any(run.published for experiment in experiments for run in experiment.runs)
    rows = published.read_rows(source or published.default_path(results_dir)) if named or source else []
    return [_table(experiment, records, rows) for experiment in experiments]


def _table(experiment: Experiment, records: list[Record], rows: list[dict[str, str]]) -> Table:
    return _drawn(build(experiment, records, published.for_runs(experiment, rows)), experiment.layout.curves)


def _drawn(table: Table, curves: tuple[str, ...]) -> Table:
    """The table with the figures that its records have points for."""
    return dataclasses.replace(table, figures=figures.drawable(table, curves), pictures=pictures.available(table))
