"""Gates of reproductions: was the published number reached, within the tolerance that the experiment file states?"""

from __future__ import annotations

import statistics

from fgmae_bench.config.experiments import Experiment, Gate, PlannedRun
from fgmae_bench.errors import BenchError
from fgmae_bench.records import Record
from fgmae_bench.report.published import Published
from fgmae_bench.report.row import Verdict


def verdicts(
    experiment: Experiment, run: PlannedRun, published: list[Published], records: tuple[Record, ...]
) -> tuple[Verdict, ...]:
    """What each gate of a planned run says of the records of one of its rows, mean over seeds.

    Raises BenchError where no published row of the run has the number.
    """
    return tuple(_verdict(experiment, run, gate, published, records) for gate in run.gates)


def _verdict(
    experiment: Experiment, run: PlannedRun, gate: Gate, published: list[Published], records: tuple[Record, ...]
) -> Verdict:
    name = gate.published or gate.metric
    found = next((row for row in published if row.value(name) is not None), None)
    if found is None:
        what = f"{experiment.path}: the gate of '{run.label}' wants {name}, which no published row beside it has"
        raise BenchError(what, "name the number with `published`, or add the row that has it")
    held = [record["metrics"]["legacy" if gate.legacy else "test"] for record in records]
    values = [each.get(gate.metric) if each else None for each in held]
    known = [value for value in values if isinstance(value, int | float)]
    return Verdict(
        metric=gate.metric,
        expected=found.value(name) or 0.0,
        tolerance=gate.tolerance,
        source=found.source,
        measured=statistics.fmean(known) if known and len(known) == len(records) else None,
    )
