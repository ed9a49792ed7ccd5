"""Numbers that others published: `published_results.csv` read, a planned run's rows found, their pairs judged."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fgmae_bench.config.cards import Card, card_names, load_card
from fgmae_bench.config.experiments import Experiment, PublishedRow
from fgmae_bench.errors import BenchError, closest

# Split (name on the dataset's card) and split seed behind the numbers of a published table; the CSV does not say it.
# A table that is not listed has an unknown split, so nothing is compared with it. Sources: results/published/README.md.
SPLITS: dict[str, tuple[str, int | None]] = {
    "eurosat_linear": ("reference", 42),
    "eurosat_finetune": ("reference", 42),
    "eurosat_s1_frozen": ("copernicus", None),  # list files: no seed
    "reben_v2_inference": ("official", None),
    "bigearthnet_s1_frozen": ("copernicus", None),
    "dfc2020_s1_frozen": ("copernicus", None),
    "flood_s1_frozen": ("copernicus", None),
}
REPOSITORY_COPY = Path(__file__).resolve().parents[2] / "results" / "published" / "published_results.csv"
NEEDED = (
    "table",
    "source",
    "dataset",
    "method",
    "metric_1",
    "value_1",
    "metric_2",
    "value_2",
    "metric_definition",
    "remark",
)
ROUNDING = 0.001  # two values printed with three decimals differ from their true difference by less than this


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published row: `metrics` are fractions, `dataset` a card's title, `protocol` the record's word."""

    table: str
    source: str
    dataset: str
    protocol: str
    metrics: tuple[tuple[str, float], ...]
    definition: str  # how the metrics were averaged, in the words of the table
    remark: str
    batch_per_process: int | None = None  # what per-batch averages were averaged over
    pretraining: str = ""  # what the source says of the run itself, empty where it says nothing
    model: str = ""
    epochs: float | None = None
    lr: float | None = None
    lr_kind: str = "lr"  # or blr, per 256 samples of the effective batch
    world_size: int | None = None

    def value(self, metric: str) -> float | None:
        """The published number, None where there is none."""
        return dict(self.metrics).get(metric)


def default_path(results_dir: Path) -> Path:
    """The published numbers in the results folder, else the copy in the repository."""
    own = results_dir / "published" / "published_results.csv"
    return own if own.is_file() else REPOSITORY_COPY


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of the CSV as text by column; raises BenchError when the file is missing or not such a table."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            rows, columns = list(reader), reader.fieldnames or ()
    except OSError as error:
        raise BenchError(
            f"{path}: published numbers cannot be read ({error.strerror})", "give the file with --published"
        ) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise BenchError(f"{path}: not a table of published numbers ({error})", "correct the file") from error
    if not rows or not set(NEEDED) <= set(columns):
        what = f"{path} holds no published rows with the columns {', '.join(NEEDED)}"
        raise BenchError(what, "give a table like results/published/published_results.csv")
    for number, row in enumerate(rows, 2):
        missing = sorted(name for name in NEEDED if row.get(name) is None)
        if missing or None in row:
            raise BenchError(f"{path}: row {number} lacks {', '.join(missing) or 'a column name'}", "correct the file")
        if not row["source"].strip():
            raise BenchError(f"{path}: row {number} has no source", "say who published the number, or leave it out")
    return rows


def select(rows: list[dict[str, str]], wanted: PublishedRow, where: str) -> Published:
    """The one row that `wanted` singles out; `where` names file and key path in errors.

    A number in the clause is compared as a number, text as text. Raises BenchError unless exactly one row fits.
    """
    columns = rows[0].keys() if rows else ()
    for name in wanted.where:
        if name not in columns:
            raise BenchError(f"{where}.where: unknown column '{name}'", closest(name, columns))
    fitting = [
        row for row in rows if row["table"] == wanted.table and all(_fits(row[k], v) for k, v in wanted.where.items())
    ]
    if len(fitting) != 1:
        raise BenchError(f"{where} selects {len(fitting)} published rows", "name column values that single out one row")
    return to_published(fitting[0], where)


def for_runs(experiment: Experiment, rows: list[dict[str, str]]) -> list[list[Published]]:
    """The published rows of each planned run, in the order of the file."""
    return [
        [select(rows, wanted, f"{experiment.path}: runs[{i}].published[{j}]") for j, wanted in enumerate(run.published)]
        for i, run in enumerate(experiment.runs)
    ]


def to_published(row: dict[str, str], where: str) -> Published:
    """A row of text as a published row; `where` names it in errors."""
    metrics = []
    for i in "12":
        if row[f"metric_{i}"] and row[f"value_{i}"]:
            try:
                metrics.append((row[f"metric_{i}"], float(row[f"value_{i}"])))
            except ValueError as error:
                raise BenchError(
                    f"{where}: value_{i} is '{row[f'value_{i}']}'", "correct the published number"
                ) from error
    return Published(
        table=row["table"],
        source=row["source"],
        dataset=row["dataset"],
        protocol=row["method"],
        metrics=tuple(metrics),
        definition=row["metric_definition"],
        remark=row["remark"],
        batch_per_process=_count(row, "batch_per_process"),
        pretraining=row.get("pretraining") or "",
        model=row.get("model") or "",
        epochs=_number(row, "epochs"),
        lr=_number(row, "lr"),
        lr_kind=row.get("lr_kind") or "lr",
        world_size=_count(row, "world_size"),
    )


def _count(row: dict[str, str], name: str) -> int | None:
    """A whole number of a row, None where there is none."""
    text = row.get(name) or ""
    return int(text) if text.isdecimal() else None


def _number(row: dict[str, str], name: str) -> float | None:
    """A number of a row, None where there is none."""
    try:
        return float(row.get(name) or "")
    except ValueError:
        return None


@cache
def card_titled(title: str) -> Card | None:
    """The suite's card with that title, None where there is none."""
    return next((card for card in map(load_card, card_names()) if card.title == title), None)


@cache
def title_of(dataset: str) -> str:
    """Title of a dataset given its name; a name without a card of the suite stands for itself."""
    return load_card(dataset).title if dataset in card_names() else dataset


def impossible_pair(published: Published) -> float | None:
    """The bound on |OA - AA| that a published pair breaks, None where it breaks none or the class shares are not known.

    The shares are the card's; they hold for a stratified split. See `single_label.oa_aa_bound`.
    """
    import numpy as np

    from fgmae_bench.metrics.single_label import oa_aa_bound

    oa, aa, card = published.value("oa"), published.value("aa"), card_titled(published.dataset)
    split, _ = SPLITS.get(published.table, (None, None))
    if oa is None or aa is None or card is None or card.counts is None or not card.counts.per_class:
        return None
    if split not in card.splits or card.splits[split].kind != "stratified":
        return None
    bound = oa_aa_bound(np.array(list(card.counts.per_class.values())))
    return bound if abs(oa - aa) > bound + ROUNDING else None


def _fits(cell: str, wanted: str | int | float) -> bool:
    if isinstance(wanted, str):
        return cell == wanted
    try:
        return float(cell) == wanted
    except ValueError:
        return False
