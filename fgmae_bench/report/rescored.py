"""`report waterfall FILE`: from a published number to ours, factor by factor, every step a recorded run.

    python -m fgmae_bench.report waterfall experiments/waterfalls/eurosat_fgmae.toml --out DIR

A factor is either read from each record (per-batch averages, the best epoch on test) or a setting of the run. Each cell
is one choice of all factors. What a factor explains depends on the order in which factors are changed: the mean over
all orders (Shapley's value) stands beside the smallest and the largest share. Between the published number and the cell
that should equal it is what cannot be attributed. Exit code 0; 2 where no run of either end is recorded.
"""

from __future__ import annotations

import itertools
import math
import shlex
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fgmae_bench.config.experiments import Experiment, PlannedRun, PublishedRow, check_flags, matches
from fgmae_bench.config.flags import Parser
from fgmae_bench.config.layout import Layout
from fgmae_bench.config.recipes import RECIPES
from fgmae_bench.config.strict import from_plain, load_toml
from fgmae_bench.errors import BenchError, closest
from fgmae_bench.metrics.table import METRICS
from fgmae_bench.records import Record, all_records
from fgmae_bench.report import figures, published
from fgmae_bench.report.formats.sheets import SHEETS
from fgmae_bench.report.sheet import Entry, Heading, Sheet

READS = ("metric", "selection")
MOST = 6  # factors: 720 orders
Choice = tuple[bool, ...]  # of each factor whether it is ours


@dataclass(frozen=True, kw_only=True)
class Factor:
    """What differs: read from the record, or flags of the run and its processes, as published and as ours."""

    name: str
    read: str = ""
    published: dict[str, Any] = field(default_factory=dict)
    ours: dict[str, Any] = field(default_factory=dict)
    published_processes: int = 1
    ours_processes: int = 1


@dataclass(frozen=True, kw_only=True)
class Waterfall:
    """One file."""

    title: str
    module: str
    protocol: str
    metric: str
    published: PublishedRow
    factors: tuple[Factor, ...]
    common: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One choice of all factors: its planned run, the records that fill it, and the value read from them."""

    run: PlannedRun
    records: tuple[Record, ...]
    value: float | None


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a factor explains: the mean over `orders`, and the smallest and largest of them."""

    name: str
    mean: float
    low: float
    high: float


def parser() -> Parser:
    """The flags of `report waterfall`."""
    made = Parser("fgmae_bench.report waterfall", __doc__)
    made.add_argument(
        "file", type=Path, metavar="FILE", help="a file such as experiments/waterfalls/eurosat_fgmae.toml"
    )
    made.add_path("results_dir", "results", "folder of the records (default: results)")
    made.add_path("published", None, "published numbers (default: those of the results, else the repository's)")
    made.add_path("out", None, "folder that gets the figure (default: none)")
    made.add_argument("--synthetic", action="store_true", help="fill it with synthetic records (default: genuine ones)")
    return made


def main(argv: list[str]) -> str:
    """Run the command line; returns the waterfall as Markdown."""
    options = parser().parse(argv)
    wanted, results_dir = load(options["file"]), options["results_dir"]
    rows = published.read_rows(options["published"] or published.default_path(results_dir))
    row = published.select(rows, wanted.published, f"{options['file']}: published")
    stated = row.value(wanted.metric)
    if stated is None:
        raise BenchError(f"{options['file']}: the published row has no {wanted.metric}", "name a metric that it has")
    records = [record for _, record in all_records(results_dir)[0]]
    held = cells(wanted, records, synthetic=options["synthetic"])
    sheet = waterfall_sheet(options["file"].stem, wanted, stated, row.source, held, synthetic=options["synthetic"])
    if options["out"] and sheet.figures:
        shares, start = attributed(wanted, held)
        steps = [(f"published by {row.source}", stated), ("not attributed", start - stated)]
        steps += [(share.name, share.mean) for share in shares]
        for file in sheet.figures.values():
            figures.waterfall(steps, options["out"] / "figures" / file, title=wanted.title, axis=wanted.metric)
    return SHEETS["md"](sheet).rstrip("\n")


def load(path: Path) -> Waterfall:
    """Load and check one file; errors name file and key path."""
    found = from_plain(Waterfall, load_toml(path), str(path))
    if found.module not in RECIPES:
        raise BenchError(f"{path}: unknown module '{found.module}'", closest(found.module, RECIPES))
    if found.metric not in METRICS:
        raise BenchError(f"{path}: unknown metric '{found.metric}'", closest(found.metric, METRICS))
    if not 1 <= len(found.factors) <= MOST:
        raise BenchError(f"{path}: {len(found.factors)} factors", f"give 1 to {MOST}")
    check_flags(found.module, found.common, f"{path}: common")
    for i, factor in enumerate(found.factors):
        where = f"{path}: factors[{i}]"
        if factor.read and factor.read not in READS:
            raise BenchError(f"{where}.read is '{factor.read}'", closest(factor.read, READS))
        if bool(factor.read) == bool(factor.published or factor.ours):
            raise BenchError(f"{where} is read from the record, or flags of the run", "give one of both")
        for side in ("published", "ours"):
            check_flags(found.module, getattr(factor, side), f"{where}.{side}")
    return found


def cells(wanted: Waterfall, records: Iterable[Record], *, synthetic: bool = False) -> dict[Choice, Cell]:
    """Every choice of the factors with its value, mean over seeds; None where no run is recorded, or cannot say it."""
    held = [record for record in records if record["dataset"]["synthetic"] == synthetic]
    found = {}
    for choice in itertools.product((False, True), repeat=len(wanted.factors)):
        run = _run(wanted, choice)
        experiment = Experiment(
            title=wanted.title,
            module=wanted.module,
            protocol=wanted.protocol,
            layout=Layout(columns=()),
            runs=(run,),
        )
        fitting = tuple(record for record in held if matches(experiment, run, record))
        reads = {f.read: ours for f, ours in zip(wanted.factors, choice, strict=True) if f.read}
        values = [_value(record, wanted.metric, reads) for record in fitting]
        known = [value for value in values if value is not None]
        value = statistics.fmean(known) if known and len(known) == len(values) else None
        found[choice] = Cell(run=run, records=fitting, value=value)
    return found


def _run(wanted: Waterfall, choice: Choice) -> PlannedRun:
    flags, processes = dict(wanted.common), 1
    for factor, ours in zip(wanted.factors, choice, strict=True):
        flags |= factor.ours if ours else factor.published
        processes = max(processes, factor.ours_processes if ours else factor.published_processes)
    return PlannedRun(label="step", flags=flags, nproc_per_node=processes)


def _value(record: Record, metric: str, ours: dict[str, bool]) -> float | None:
    """The value as a choice reads it: per batch or of the whole set, of the last epoch or of the best on test.

    A factor that is not in the file is read as ours. A run that selects on val cannot say what the best on test was.
    """
    metrics = record["metrics"]
    exact, last = ours.get("metric", True), ours.get("selection", True)
    if not exact:
        legacy = metrics["legacy"] or {}
        value = legacy.get(metric if last else f"{metric}_max")
    elif last:
        value = metrics["test"].get(metric)
    elif record["dataset"]["n_val"]:
        value = None
    else:
        seen = [entry["val"].get(metric) for entry in record["history"]]
        value = max((each for each in seen if each is not None), default=None)
    return None if value is None else float(value)


def attributed(wanted: Waterfall, held: dict[Choice, Cell]) -> tuple[list[Share], float]:
    """(what each factor explains over the orders whose cells are all known, the value that all are published in).

    Raises BenchError where no order is known from end to end.
    """
    count = len(wanted.factors)
    paths = []
    for order in itertools.permutations(range(count)):
        steps = [tuple(i in order[:n] for i in range(count)) for n in range(count + 1)]
        values = [held[step].value for step in steps]
        if None not in values:
            paths.append({i: (values[n + 1] or 0.0) - (values[n] or 0.0) for n, i in enumerate(order)})
    if not paths:
        lacking = sum(cell.value is None for cell in held.values())
        raise BenchError(
            f"{lacking} of {len(held)} cells are not known: no order leads from end to end", commands(wanted, held)
        )
    shares = []
    for i, factor in enumerate(wanted.factors):
        each = [path[i] for path in paths]
        shares.append(Share(name=factor.name, mean=statistics.fmean(each), low=min(each), high=max(each)))
    start = held[(False,) * count].value
    assert start is not None
    return shares, start


def commands(wanted: Waterfall, held: dict[Choice, Cell]) -> str:
    """The commands of the runs that no record fills, in one line."""
    lines = dict.fromkeys(command(wanted, cell.run) for cell in held.values() if not cell.records)
    return "run: " + "; ".join(lines) if lines else "the records cannot say it: run with --legacy_metrics"


def command(wanted: Waterfall, run: PlannedRun) -> str:
    """The command line of a step."""
    start = f"torchrun --nproc_per_node={run.nproc_per_node} -m" if run.nproc_per_node > 1 else "python -m"
    parts = []
    for name, value in run.flags.items():
        if value is not False:
            parts.append(f"--{name}" if value is True else f"--{name} {shlex.quote(str(value))}")
    return f"{start} fgmae_bench.{wanted.module} {' '.join(parts)}"


def waterfall_sheet(
    name: str, wanted: Waterfall, stated: float, source: str, held: dict[Choice, Cell], *, synthetic: bool
) -> Sheet:
    """The steps from the published number to ours, and below them every cell with its runs."""
    shares, start = attributed(wanted, held)
    end = held[(True,) * len(wanted.factors)].value or math.nan
    lines = [
        (f"published by {source}", stated, None),
        ("not attributed: data, code, chance", start - stated, None),
        *((share.name, share.mean, (share.low, share.high)) for share in shares),
        ("ours", end, None),
    ]
    sentences = [
        f"{METRICS[wanted.metric].title}; a share is the mean over all orders in which the factors can be changed, "
        "beside it the smallest and the largest: where these are apart, the order decides what a factor explains.",
    ]
    if synthetic:
        sentences.append("Synthetic data: this shows that the machinery works, and nothing of the published number.")
    notes = [
        f"{' / '.join('ours' if ours else 'published' for ours in choice)}: "
        f"{'not known' if cell.value is None else f'{cell.value:.4f}'}"
        f" ({', '.join(record['run_id'] for record in cell.records) or 'no run'})"
        for choice, cell in held.items()
    ]
    return Sheet(
        name=f"waterfall-{name}",
        title=wanted.title + (" (synthetic data)" if synthetic else ""),
        sentences=tuple(sentences),
        headings=(
            Heading(text="step", plain=("step",), number=False),
            Heading(text="value or share", plain=("value",)),
            Heading(text="over orders", plain=("low", "high")),
        ),
        rows=tuple(_line(i in (0, len(lines) - 1), *line) for i, line in enumerate(lines)),
        notes=("Cells, in the order of the factors:", *notes),
        figures={"steps": f"waterfall-{name}.png"},
    )


def _line(end: bool, label: str, value: float, span: tuple[float, float] | None) -> tuple[Entry, Entry, Entry]:
    return (
        Entry(text=label, plain=(label,), number=False),
        Entry(text=f"{value:.3f}" if end else f"{value:+.3f}", plain=(value,)),
        Entry(text=f"{span[0]:+.3f} to {span[1]:+.3f}", plain=span) if span else Entry(plain=(None, None)),
    )
