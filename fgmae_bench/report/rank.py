"""`report rank`: the models of one protocol ranked over its datasets, or in one line why they cannot be.

    python -m fgmae_bench.report rank --protocol logistic_regression
    python -m fgmae_bench.report rank --protocol knn --datasets eurosat bigearthnet_v2

Average ranks over datasets, those cut from the same scenes counting as one; Elo and critical differences from eight on.
What paired tests say of the order comes from separation.json, which `report --separate` makes. Exit code 0; 2 where it
would be over one dataset or one model, or over rows that were tested on other pixels.
"""

from __future__ import annotations

from pathlib import Path

from fgmae_bench.config.flags import Parser
from fgmae_bench.errors import BenchError, closest, unknown
from fgmae_bench.records import all_records
from fgmae_bench.report import tested
from fgmae_bench.report.all_tables import make_tables
from fgmae_bench.report.formats.sheets import SHEETS
from fgmae_bench.report.pivot import Pivot
from fgmae_bench.report.pivots import pivots
from fgmae_bench.report.rank_sheets import of_ranking
from fgmae_bench.report.ranking import ranking, require
from fgmae_bench.report.tested import with_tests


def parser() -> Parser:
    """The flags of `report rank`."""
    made = Parser("fgmae_bench.report rank", __doc__)
    made.add_argument("--protocol", metavar="NAME", help="protocol to rank (default: the only one)")
    made.add_argument("--datasets", nargs="+", default=[], metavar="DATASET", help="only these (default: all)")
    made.add_path("results_dir", "results", "folder of the records (default: results)")
    made.add_path("experiments", "experiments", "folder of the experiment files (default: experiments)")
    return made


def main(argv: list[str]) -> str:
    """Run the command line; returns the ranking as Markdown."""
    options = parser().parse(argv)
    results_dir: Path = options["results_dir"]
    records = [record for _, record in all_records(results_dir)[0]]
    tables = make_tables(options["experiments"], results_dir, None, records)
    pivot = _chosen(pivots(tables), options["protocol"], options["datasets"])
    known = tested.read(results_dir / tested.FILE)
    return SHEETS["md"](of_ranking(require(ranking(with_tests(pivot, known), known)))).rstrip("\n")


def _chosen(every: list[Pivot], protocol: str | None, datasets: list[str]) -> Pivot:
    """The pivot of a protocol with the columns of some datasets; raises BenchError where there is none."""
    names = [pivot.protocol for pivot in every]
    if protocol is None and len(names) != 1:
        what = "no protocol has two measured rows" if not names else f"{len(names)} protocols are measured"
        raise BenchError(what, f"name one with --protocol: {', '.join(names)}" if names else "measure more models")
    name = names[0] if protocol is None else protocol
    if name not in names:
        raise BenchError(f"no two measured rows of protocol '{name}'", closest(name, names))
    pivot = every[names.index(name)]
    if pivot.refused:
        raise BenchError(f"no column for {pivot.refused[0]}", "rank runs on one and the same test data")
    held = [place.dataset for place in pivot.places]
    for dataset in datasets:
        if dataset not in held:
            raise unknown("dataset", dataset, held)
    return pivot.only(datasets) if datasets else pivot
