"""The tables of all experiments of a folder, with the published numbers beside them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fgmae_bench.config.experiments import Experiment, load_experiments
from fgmae_bench.errors import BenchError
from fgmae_bench.records import Record
from fgmae_bench.report import figures, pictures, published
from fgmae_bench.report.row import Table
from fgmae_bench.report.table import build


def make_tables(folder: Path, results_dir: Path, source: Path | None, records: list[Record]) -> list[Table]:
    """The tables of all experiments of a folder; `source` holds the published numbers (None: those of the results)."""
    experiments = load_experiments(folder)
    if not experiments:
        raise BenchError(f"{folder} holds no experiment files", "give their folder with --experiments")
    named = any(run.published for experiment in experiments for run in experiment.runs)
    rows = published.read_rows(source or published.default_path(results_dir)) if named or source else []
    return [_table(experiment, records, rows) for experiment in experiments]


def _table(experiment: Experiment, records: list[Record], rows: list[dict[str, str]]) -> Table:
    table = build(experiment, records, published.for_runs(experiment, rows))
    return dataclasses.replace(
        table, figures=figures.drawable(table, experiment.layout.curves), pictures=pictures.available(table)
    )
