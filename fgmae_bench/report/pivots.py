"""From rows of tables to pivots: which rows share a column or a line, and which may not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from fgmae_bench.records import Record
from fgmae_bench.report.chosen import GRID, alike, few_labels, main_metric, spread_words
from fgmae_bench.report.columns import COLUMNS
from fgmae_bench.report.pivot import STRESSED, Cell, Line, Pivot, Place, mean_of, score_of, shas
from fgmae_bench.report.row import Bounds, Row, Table, out_of_ranks
from fgmae_bench.report.table import distinct, settings

NULLS = ("backscatter_stats",)  # models whose scores are what a backbone has to beat, the first that was measured
PLAIN_MODEL = ("model", "patch_size", "inputs", "weights_prefix")  # settings of a model that are the same on all data
SOFT = ("seed", "draw", "blr")


def pivots(tables: Iterable[Table]) -> list[Pivot]:
    """A pivot of each protocol with two measured lines or columns, in the order of the tables."""
    rows: dict[tuple[str, ...], Row] = {}
    for table in tables:
        for row in _chosen(table.rows):
            rows.setdefault((*shas(row), str(row.candidates)), row)
    by_protocol: dict[str, list[Row]] = {}
    for row in rows.values():
        if not row.records[0]["protocol"].startswith(STRESSED):
            by_protocol.setdefault(row.records[0]["protocol"], []).append(row)
    found = [_pivot(protocol, several) for protocol, several in by_protocol.items()]
    return [pivot for pivot in found if max(len(pivot.lines), len(pivot.places)) > 1 or pivot.refused]


def _chosen(rows: tuple[Row, ...]) -> list[Row]:
    """The rows with a score; of a grid that val chose from, the chosen one alone."""
    scored = [row for row in rows if row.records and main_metric(row.records[0]) and score_of(row) is not None]
    grids = {alike(row.records[0], settings, GRID) for row in scored if row.candidates is not None}
    return [
        row
        for row in scored
        if row.candidates is not None
        or not row.grid
        or row.grid == 1
        or alike(row.records[0], settings, GRID) not in grids
    ]


def _pivot(protocol: str, rows: list[Row]) -> Pivot:
    by_place: dict[str, list[Row]] = {}
    for row in rows:
        by_place.setdefault(_place_key(row), []).append(row)
    places, kept, refused = [], [], []
    for several in sorted(by_place.values(), key=lambda each: each[0].synthetic):
        place = _place(several, rows)
        problem = other_content(several)
        if problem:
            refused.append(f"{place.heading}: {problem}")
        else:
            places.append(place)
            kept.append(several)
    lines = _lines(places, kept)
    return Pivot(protocol=protocol, places=tuple(places), lines=tuple(lines), refused=tuple(refused))


def other_content(rows: list[Row]) -> str | None:
    """Why rows may not share a column: they are of other pixels or labels, or do not say of which. None where they may.

    A pack of eight bits counts as what it was made of.
    """
    held: set[str] | None = None
    for record in (record for row in rows for record in row.records):
        dataset = record["dataset"]
        own = {found["test"] for name in ("content_sha256", "source_content_sha256") if (found := dataset.get(name))}
        if not own:
            return f"the record {record['run_id']} is of an older version and does not say of which pixels it is"
        held = own if held is None else held & own
        if not held:
            return f"{rows[0].records[0]['run_id']} and {record['run_id']} were tested on other pixels or labels"
    return None


def _place_facts(row: Row) -> dict[str, Any]:
    record = row.records[0]
    dataset, data = record["dataset"], record["config"]["data"]
    return {
        "split": dataset["split"],
        "split seed": dataset["split_seed"],
        "labels": dataset["label_scheme"]["eval"],
        "trained on": dataset["label_scheme"]["train"],
        "shots": data.get("shots"),
        "train fraction": data.get("train_frac", 1.0),
        "limit": data.get("limit"),
        "scored on": dataset["eval_split"],
    }


def _place_key(row: Row) -> str:
    return json.dumps([row.dataset, row.synthetic, main_metric(row.records[0]), _place_facts(row)], sort_keys=True)


def _place(several: list[Row], rows: list[Row]) -> Place:
    """The column, with the facts in which it differs from other columns of its dataset; few labels are always said."""
    first = several[0]
    record = first.records[0]
    own = _place_facts(first)
    others = [_place_facts(row) for row in rows if row.dataset == first.dataset]
    differing = [name for name, value in own.items() if any(other[name] != value for other in others)]
    if own["shots"] is not None and "shots" not in differing:
        differing.append("shots")
    facts = tuple(_fact(name, own[name]) for name in differing)
    return Place(
        dataset=record["dataset"]["name"],
        title=first.dataset,
        metric=main_metric(record) or "",
        facts=facts,
        every=tuple(own.items()),
        synthetic=first.synthetic,
        groups=groups_of(record),
        null=_null(several),
    )


def _fact(name: str, value: Any) -> str:
    """A fact of a column in words."""
    if value is None:
        return "all labels" if name == "shots" else f"no {name}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def groups_of(record: Record) -> str:
    """What the test samples come in: `5 scenes`, or how many they are where nothing tells their groups."""
    groups = record["dataset"].get("groups") or {}
    count = groups.get("test")
    if count:
        return f"{count:,} {groups['kind']}{'' if count == 1 else 's'}"
    return f"{record['dataset']['n_test']:,} samples, groups unknown"


def _null(rows: list[Row]) -> Row | None:
    """The row that distances are from: backscatter statistics, else the best of random weights."""
    for name in NULLS:
        found = [row for row in rows if row.records[0]["model"]["name"] == name]
        if found:
            return found[0]
    random = [row for row in rows if row.records[0]["model"]["weights"]["source"] in ("random", "none")]
    return max(random, key=lambda row: mean_of(score_of(row)), default=None)


def _lines(places: list[Place], columns: list[list[Row]]) -> list[Line]:
    """A line a model, in order of appearance; settings that differ on one dataset make lines of their own."""
    order = {shas(row): i for i, row in enumerate(row for several in columns for row in several)}
    models: dict[str, list[tuple[int, Row, dict[str, Any]]]] = {}
    for c, several in enumerate(columns):
        for row in several:
            models.setdefault(model_key(row), []).append((c, row, settings(row.records[0])))
    found: list[tuple[int, str, str, dict[int, Row]]] = []
    for model, held in models.items():
        varying = _varying(held)
        variants: dict[str, dict[int, Row]] = {}
        for c, row, own in held:
            key = json.dumps([own.get(name) for name in varying])
            while c in variants.setdefault(key, {}):  # what nothing tells apart stays apart: one would hide the other
                key += " "
            variants[key][c] = row
        for line in variants.values():
            first = min(order[shas(row)] for row in line.values())
            found.append((first, _label(list(line.values())), model if len(variants) == 1 else "", line))
    found.sort(key=lambda each: each[0])
    labels = _distinct([each[1] for each in found], [next(iter(each[3].values())) for each in found])
    return [
        Line(
            label=label,
            over=spread_over(list(cells.values())),
            cells=tuple(_cell(cells.get(c), place) for c, place in enumerate(places)),
            unranked=next((why for row in cells.values() if (why := out_of_ranks(row.records[0]))), ""),
            model=model,
        )
        for label, (_, _, model, cells) in zip(labels, found, strict=True)
    ]


def model_key(row: Row) -> str:
    """What a model is on any dataset: architecture, weights by content, extra inputs, and the recipe's name."""
    record = row.records[0]
    weights, config = record["model"]["weights"], record["config"]["model"]
    own = {name: config.get(name) for name in PLAIN_MODEL}
    return json.dumps([record["model"]["name"], weights["sha256"] or weights["source"], own, record["recipe"]])


def _varying(held: list[tuple[int, Row, dict[str, Any]]]) -> list[str]:
    """The plain settings in which rows of one model differ on one dataset, sorted by name."""
    by_place: dict[int, list[dict[str, Any]]] = {}
    for c, _, own in held:
        by_place.setdefault(c, []).append(own)
    names = set()
    for several in (each for each in by_place.values() if len(each) > 1):
        for name in {name for own in several for name in own if " " not in name and name not in SOFT}:
            if any(own.get(name) != several[0].get(name) for own in several):
                names.add(name)
    return sorted(names)


def _label(rows: list[Row]) -> str:
    """The first label of a model's rows, without the dataset that a file puts in front of labels of several."""
    titles = {row.dataset for row in rows}
    front, _, rest = rows[0].label.partition(": ")
    named = len(titles) > 1 or rows[0].dataset.casefold().startswith(front.casefold())
    return rest if rest and named else rows[0].label


def _distinct(labels: list[str], rows: list[Row]) -> list[str]:
    """The labels, where two read the same with the settings that differ, and at last with the run's hash."""
    count = Counter(labels)
    twice = [i for i, label in enumerate(labels) if count[label] > 1]
    found = list(labels)
    for i, label in zip(twice, distinct([labels[i] for i in twice], [rows[i].records[0] for i in twice]), strict=True):
        found[i] = label
    again = Counter(found)
    return [
        label if again[label] == 1 else f"{label} {row.records[0]['run_id'][-10:]}"
        for label, row in zip(found, rows, strict=True)
    ]


def spread_over(rows: list[Row]) -> str:
    """What ± is over: `3 seeds`, `2 seeds x 5 draws`, `one seed`, or that a fit of given weights has no seed."""
    seen: dict[str, None] = {}
    for row in rows:
        if len(row.records) == 1:
            over = "no seed" if without_seed(row.records[0]) else "one seed"
        else:
            over = spread_words(row.records)
        seen[over] = None
    return ", ".join(seen)


def without_seed(record: Record) -> bool:
    """Whether nothing in a run is drawn: neighbours, or a fit to convergence, on given weights and all labels."""
    fitted = record["protocol"] in ("logistic_regression", "ridge", "knn", "inference") or record[
        "protocol"
    ].startswith(("otsu", "log_ratio"))
    return fitted and record["model"]["weights"]["source"] != "random" and not few_labels(record)


def _cell(row: Row | None, place: Place) -> Cell | None:
    if row is None:
        return None
    value = score_of(row)
    assert value is not None  # rows without a score are in no pivot
    delta = None
    if place.null is not None and shas(place.null) != shas(row):
        delta = mean_of(value) - mean_of(score_of(place.null))
    interval = COLUMNS.get(f"{place.metric}_interval")
    bounds = interval.value(row) if interval else None
    return Cell(row=row, value=value, bounds=bounds if isinstance(bounds, Bounds) else None, delta=delta, best=None)
