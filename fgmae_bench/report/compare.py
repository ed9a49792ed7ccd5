"""`report compare A B`: are two runs, rows or models different on the same test samples, and by how much?

    python -m fgmae_bench.report compare RUN_A RUN_B [RUN_C ...] [--metric oa]
    python -m fgmae_bench.report compare --table eurosat_linear
    python -m fgmae_bench.report compare --models A B --datasets eurosat bigearthnet_v2

Runs are run ids or paths of records; the first is compared with each other one. A table's row, and a model, stands with
all its seeds, a model's grid with the row that val selects of it: errors are over seeds and groups, and both are shown
apart. Over several datasets the mean of the differences is tested too. Groups (scenes, blocks) are the units where the
predictions name them, else samples; accuracy on independent samples is tested by McNemar's mid-p. p-values of all cells
are corrected together (Holm), and stars are given only after that: * below .05, ** below .01, *** below .001. Rows of
one seed get none: what another would give is not known. Exit code 0; 2 where runs were tested on different samples, or
predictions are missing.
"""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path

import numpy as np

from fgmae_bench.config.experiments import load_experiment
from fgmae_bench.config.flags import Parser
from fgmae_bench.errors import BenchError, closest
from fgmae_bench.metrics.intervals import LEVEL, Difference, obstacles
from fgmae_bench.metrics.jackknife import Estimate
from fgmae_bench.metrics.rows import row_estimates
from fgmae_bench.metrics.separation import together
from fgmae_bench.metrics.significance import holm, t_quantile, wilcoxon_p
from fgmae_bench.metrics.table import METRICS, selection
from fgmae_bench.metrics.variance import over_datasets
from fgmae_bench.records import Record, all_records, read_record
from fgmae_bench.report.chosen import selected_on_val, spread_word, spread_words
from fgmae_bench.report.pairs import (
    BOOTSTRAP,
    JACKKNIFE,
    MCNEMAR,
    Candidate,
    Pair,
    cells_of,
    require_same_content,
    side,
    unit_words,
)
from fgmae_bench.report.predictions import Predictions, find_predictions
from fgmae_bench.report.ranking import SCENES
from fgmae_bench.report.row import Row, out_of_ranks
from fgmae_bench.report.table import build, current, groups, settings

__all__ = ["BOOTSTRAP", "JACKKNIFE", "MCNEMAR", "compare", "find_run", "main"]

STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
OVERALL = "mean of all"
ENOUGH = 6  # datasets from which signed ranks can fall below .05


def parser() -> Parser:
    """The flags of `report compare`."""
    made = Parser("fgmae_bench.report compare", __doc__)
    made.add_argument(
        "runs", nargs="*", metavar="RUN", help="run ids or paths of records; the first is compared with the others"
    )
    made.add_argument(
        "--metric", nargs="+", default=[], metavar="METRIC", help="metrics to compare (default: all that the runs have)"
    )
    text = "compare the rows of this experiment's table, each with all its seeds (default: the runs named)"
    made.add_argument("--table", metavar="NAME", help=text)
    text = "two models, NAME or NAME:WEIGHTS, to compare on --datasets with all their seeds (default: the runs named)"
    made.add_argument("--models", nargs=2, metavar=("A", "B"), help=text)
    made.add_argument(
        "--datasets", nargs="+", default=[], metavar="DATASET", help="datasets of --models (default: all of both)"
    )
    made.add_argument("--protocol", metavar="NAME", help="protocol of --models (default: any)")
    made.add_path("results_dir", "results", "folder of records and predictions (default: results)")
    made.add_path("experiments", "experiments", "folder of the experiment files (default: experiments)")
    return made


def main(argv: list[str]) -> str:
    """Run the command line; returns what it says."""
    options = parser().parse(argv)
    results_dir: Path = options["results_dir"]
    if options["models"]:
        if options["runs"] or options["table"]:
            raise BenchError("--models together with runs or --table", "compare one or the other")
        return over_models(options["models"], options["datasets"], options["protocol"], options["metric"], results_dir)
    chosen = [find_run(name, results_dir) for name in options["runs"]]
    if options["table"]:
        named = {candidate.record["run_id"] for candidate in chosen}
        rows = of_table(options["table"], options["experiments"], results_dir)
        chosen += [each for each in rows if each.record["run_id"] not in named]
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
        for record in each.records:
            if record["sha256"] in seen:
                raise BenchError(f"the record of run {each.name} is named twice", "name different runs")
            seen.add(record["sha256"])


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
        return Candidate(name=record["run_id"], records=(record,), predictions=(stored,))
    return candidate((record,), path.parents[3] if path.match("records/*/*/*.json") else results_dir, row=False)


def _near(name: str, every: list[str]) -> str:
    """The runs whose ids look most like `name`: a store may hold thousands."""
    near = difflib.get_close_matches(name, every, n=3, cutoff=0.3)
    return f"did you mean {' or '.join(near)}?" if near else "give its folder with --results_dir"


def candidate(records: tuple[Record, ...], results_dir: Path, *, row: bool) -> Candidate:
    """The seeds of a row, or one run, with their predictions."""
    name = records[0]["run_id"] + (f" ({spread_words(records)})" if len(records) > 1 else "")
    paths = tuple(find_predictions(record, results_dir) for record in records)
    return Candidate(name=name, records=records, predictions=paths, row=row)


def of_table(name: str, experiments: Path, results_dir: Path) -> list[Candidate]:
    """The measured rows of a table with all their seeds, where predictions are stored."""
    path = experiments / f"{name}.toml"
    if not path.is_file():
        raise BenchError(
            f"no experiment '{name}' in {experiments}",
            closest(name, [each.stem for each in experiments.glob("*.toml")]),
        )
    experiment = load_experiment(path)
    records = [record for _, record in all_records(results_dir)[0]]
    rows = build(experiment, records, [[] for _ in experiment.runs]).rows
    held = [tuple(record for record in row.records if record["predictions"]) for row in rows]
    return [candidate(records, results_dir, row=True) for records in held if records]


def of_model(name: str, dataset: str, protocol: str | None, records: list[Record], results_dir: Path) -> Candidate:
    """The one row of a model, NAME or NAME:WEIGHTS, on a dataset, of a grid the one that val selects; raises BenchError
    where there is none, or several that no val split chooses from.
    """
    model, _, weights = name.partition(":")
    fitting = [
        record
        for record in records
        if record["dataset"]["name"] == dataset
        and record["model"]["name"] == model
        and weights in ("", record["model"]["weights"]["source"])
        and protocol in (None, record["protocol"])
        and record["predictions"]
    ]
    rows = groups(current(fitting))
    if not rows:
        known = [record["model"]["name"] for record in records if record["dataset"]["name"] == dataset]
        raise BenchError(f"no run of {name} on {dataset} with predictions", closest(model, known))
    best = selected_on_val([Row(label="", dataset=dataset, records=row) for row in rows], settings)
    if best is not None:
        return dataclasses.replace(candidate(best.records, results_dir, row=True), settings=len(rows))
    if len(rows) > 1:
        what = f"{len(rows)} rows of {name} on {dataset}, such as {rows[0][0]['run_id']} and {rows[1][0]['run_id']}"
        raise BenchError(what, "narrow it with --protocol or NAME:WEIGHTS, or name the runs")
    return candidate(rows[0], results_dir, row=True)


def compare(
    runs: list[Candidate], metrics: list[str], *, skip: bool = False
) -> tuple[list[Pair], list[str], Predictions]:
    """(cells after Holm, sentences on runs left out, predictions of the first); `skip`: leave out other samples."""
    first, *others = runs
    base = side(first)
    cells, left_out = list[Pair](), []
    for other in others:
        try:
            require_same_content(first, other)
            mine = side(other, base.seeds[0], first.name)
        except BenchError as error:
            if not skip:
                raise
            left_out.append(f"left out: {error.what}")
            continue
        cells += cells_of(base, mine, metrics)
    return _corrected(cells), left_out, base.seeds[0]


def _corrected(cells: list[Pair]) -> list[Pair]:
    """The cells with their p-values after Holm."""
    adjusted = holm([cell.difference.p for cell in cells])
    return [dataclasses.replace(cell, adjusted=p) for cell, p in zip(cells, adjusted, strict=True)]


def over_models(
    models: list[str], datasets: list[str], protocol: str | None, metrics: list[str], results_dir: Path
) -> str:
    """Two models on each dataset, and the mean of their differences, as text. Datasets on which the two were tested on
    different samples are left out.
    """
    records = [record for _, record in all_records(results_dir)[0]]
    if not datasets:
        held = [{r["dataset"]["name"] for r in records if r["model"]["name"] == m.partition(":")[0]} for m in models]
        datasets = sorted(held[0] & held[1])
    cells, lines, chosen = list[Pair](), [], []
    for dataset in dict.fromkeys(datasets):
        pair = [of_model(name, dataset, protocol, records, results_dir) for name in models]
        found, left_out, base = compare(pair, metrics, skip=True)
        lines += [f"{dataset}: {line}" for line in left_out]
        chosen += pair
        if not found:
            continue
        lines.append(f"{dataset}: {len(base.ids):,} test samples, {unit_words(pair[0], base)}; {_seeds(pair)}.")
        shown = metrics or [selection(base.kind)]
        cells += [dataclasses.replace(cell, b=dataset) for cell in found if cell.metric in shown]
    if not cells:
        raise BenchError("no dataset on which both models can be compared", "name others with --datasets")
    cells = _corrected(cells + _overall(cells))
    return "\n".join(
        [*lines, *_warnings(chosen, cells), f"A = {models[0]}, B = {models[1]}", *_table(cells, "dataset")]
    )


def _overall(cells: list[Pair]) -> list[Pair]:
    """The mean difference over datasets, where there are several and each has an error. Those cut from the same scenes
    count as one, and make its error no smaller.
    """
    known = [cell for cell in cells if cell.difference.low is not None]
    if len(known) < 2:
        return []
    cuts: dict[str, list[Pair]] = {}
    for cell in known:
        cuts.setdefault(SCENES.get(cell.b, cell.b), []).append(cell)
    each = [together([_estimate(cell) for cell in cut]) for cut in cuts.values()]
    mean = over_datasets(each)
    low, high = mean.interval()
    a, b = (
        float(np.mean([np.mean([getattr(cell.difference, name) for cell in cut]) for cut in cuts.values()]))
        for name in "ab"
    )
    test = f"{len(known)} datasets, as they are"
    if len(cuts) < len(known):
        test += f", of {len(cuts)} different scenes"
    if len(cuts) >= ENOUGH:
        test += f"; signed ranks {wilcoxon_p([estimate.value for estimate in each]):.4f}"
    difference = Difference(a=a, b=b, low=low, high=high, p=mean.p())
    starred = all(cell.starred for cell in known)
    return [Pair(a=known[0].a, b=OVERALL, metric="", difference=difference, test=test, starred=starred)]


def _estimate(cell: Pair) -> Estimate:
    """The difference of a cell with its error: that of rows, else of its interval."""
    if cell.combined is not None:
        return cell.combined
    d = cell.difference
    assert d.low is not None and d.high is not None and d.degrees is not None  # noqa: PT018
    return Estimate(value=d.a - d.b, error=(d.high - d.low) / 2 / t_quantile(LEVEL, d.degrees), degrees=d.degrees)


def words(runs: list[Candidate], cells: list[Pair], left_out: list[str], base: Predictions) -> str:
    """The comparison as text."""
    lines = [f"{len(base.ids):,} test samples, {unit_words(runs[0], base)}.", *left_out, *_warnings(runs, cells)]
    shown = {cell.b for cell in cells} | {runs[0].name}
    metrics = list(dict.fromkeys(cell.metric for cell in cells))
    for run in runs:
        if len(run.records) > 1 and run.name in shown:
            lines += _row_lines(run, metrics)
    lines.append(f"A = {cells[0].a if cells else runs[0].name}")
    return "\n".join([*lines, *_table(cells, "B")])


def _row_lines(run: Candidate, metrics: list[str]) -> list[str]:
    """Each metric of a row of several seeds, over seeds and groups, and the two sources apart."""
    units = side(run).units()
    withheld, found = obstacles(units[0]), row_estimates(units)
    lines = []
    for metric in metrics:
        estimate = found[metric]
        if metric in withheld or not np.isfinite((estimate.value, estimate.error)).all():
            continue
        low, high = np.clip(estimate.interval(LEVEL), *(METRICS[metric].bounds or (None, None)))
        spread = spread_word(run.records)
        parts = [(spread, estimate.over_seeds), ("groups" if units[0].grouped else "samples", estimate.over_groups)]
        apart = ", ".join(f"{error:.3f} over {name}" for name, error in parts if error is not None)
        lines.append(f"{run.name}: {metric} {estimate.value:.3f}, {low:.3f} to {high:.3f} over both (SE {apart})")
    return lines


def _seeds(pair: list[Candidate]) -> str:
    counts = [spread_words(each.records) if len(each.records) > 1 else "1 seed" for each in pair]
    return f"{counts[0]} each" if counts[0] == counts[1] else f"{counts[0]} and {counts[1]}"


def _warnings(runs: list[Candidate], cells: list[Pair]) -> list[str]:
    """Sentences on what the cells cannot say."""
    lines = []
    single = sum(run.row and len(run.records) == 1 for run in runs)
    if single and any(not cell.starred for cell in cells):
        lines.append(
            f"{single} of the rows are of one seed: what another seed would give is not in their errors, and their "
            "differences get no stars."
        )
    lines += [
        f"{run.name} is what val selected of {run.settings} settings on {run.record['dataset']['name']}."
        for run in runs
        if run.settings > 1
    ]
    if len({run.settings for run in runs}) > 1:
        lines.append("Unequal budgets: the rows were chosen from different numbers of settings.")
    if any(run.record["dataset"]["synthetic"] for run in runs):
        lines.append("Synthetic data: the differences say nothing about real scenes.")
    lines += [f"{run.name} is not ranked: {reason}." for run in runs if (reason := out_of_ranks(run.record))]
    return lines


def _table(cells: list[Pair], title: str) -> list[str]:
    """A heading, a line a cell, and what Holm's correction ran over."""
    width = max([len(cell.b) for cell in cells] + [len(title)])
    lines = [
        f"{title:<{width}}  {'metric':<10} {'A':>6} {'B':>6} {'A - B':>7}  {f'{LEVEL:.0%} interval':<16} "
        f"{'p':>7} {'p (Holm)':>8}      test"
    ]
    lines += [_line(cell, width) for cell in cells]
    lines.append(
        f"Holm over {sum(cell.difference.p is not None for cell in cells)} cells; * below .05, ** below .01, "
        "*** below .001 after it."
    )
    return lines


def _line(cell: Pair, width: int) -> str:
    d, adjusted = cell.difference, cell.adjusted
    bounds = f"{d.low:+.3f} to {d.high:+.3f}" if d.low is not None else "–"
    known = adjusted if cell.starred else None
    stars = next((mark for bound, mark in STARS if known is not None and known < bound), "")
    gap = _shown(d.a - d.b, "+.3f")
    values = f"{_shown(d.a, '.3f'):>6} {_shown(d.b, '.3f'):>6} {gap:>7}  {bounds:<16}"
    errors = [(cell.over_seeds, cell.spread), (cell.over_groups, "groups")]
    apart = "".join(f", SE over {name} {error:.3f}" for error, name in errors if error is not None)
    return f"{cell.b:<{width}}  {cell.metric:<10} {values} {_p(d.p):>7} {_p(adjusted):>8} {stars:<4} {cell.test}{apart}"


def _shown(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "–"


def _p(value: float | None) -> str:
    return "–" if value is None else "<.0001" if value < 0.0001 else f"{value:.4f}"
