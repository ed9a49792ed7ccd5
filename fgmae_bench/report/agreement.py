"""Do two conditions rank the same models alike: protocols, few and all labels, leaky and clean splits, stressed views.

Kendall's tau-b over the models that both have, with its interval over datasets (those cut from the same scenes counting
as one) and the ceiling that halves of one condition reach.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fgmae_bench.metrics.ranks import Agreement, agreement
from fgmae_bench.records import Record
from fgmae_bench.report.columns import leaks
from fgmae_bench.report.pictures import model_name
from fgmae_bench.report.pivot import STRESSED, Pivot, Place, mean_of
from fgmae_bench.report.published import card_titled
from fgmae_bench.report.ranking import DIGITS, SCENES

LEAST_MODELS = 3  # of two, a rank correlation is a coin
Condition = dict[str, dict[str, float]]  # dataset -> model -> score


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Two conditions, what kind they are of, the datasets and how many models both hold, and their agreement."""

    kind: str
    a: str
    b: str
    units: tuple[str, ...]
    models: int
    found: Agreement
    synthetic: bool


def compared(pivots: list[Pivot], records: Iterable[Record]) -> list[Compared]:
    """Every pair of conditions that share three models on a dataset, genuine data and synthetic apart."""
    found = []
    for synthetic in (False, True):
        for kind, a, b, one, other in [
            *_protocols(pivots, synthetic),
            *_within(pivots, synthetic),
            *_stressed(records, synthetic),
        ]:
            made = _agreement(kind, (a, b), one, other, synthetic)
            found += [made] if made else []
    return found


def _agreement(kind: str, names: tuple[str, str], a: Condition, b: Condition, synthetic: bool) -> Compared | None:
    """The agreement over the datasets on which both conditions know the most models in common."""
    shared = {unit: set(a[unit]) & set(b[unit]) for unit in a if unit in b}
    shared = {unit: models for unit, models in shared.items() if len(models) >= LEAST_MODELS}
    if not shared:
        return None
    models = sorted(set.intersection(*shared.values()))
    if len(models) < LEAST_MODELS:  # datasets of other models: the one that has the most
        unit = max(shared, key=lambda each: len(shared[each]))
        shared, models = {unit: shared[unit]}, sorted(shared[unit])
    scenes: dict[str, list[str]] = {}
    for unit in shared:
        scenes.setdefault(_scenes(unit), []).append(unit)
    one, other = (
        np.array([[np.mean([each[unit][model] for unit in cuts]) for model in models] for cuts in scenes.values()])
        for each in (a, b)
    )
    return Compared(
        kind=kind,
        a=names[0],
        b=names[1],
        units=tuple(shared),
        models=len(models),
        found=agreement(one.round(DIGITS), other.round(DIGITS)),
        synthetic=synthetic,
    )


def _scores(pivot: Pivot, places: list[int], without: tuple[str, ...] = ()) -> Condition:
    """Scores of the models that have one line, by dataset with all that can tell it but for what is named."""
    found: Condition = {}
    for c in places:
        held = found.setdefault(_unit(pivot.places[c], without), {})
        for line in pivot.lines:
            cell = line.cells[c]
            if line.model and cell is not None:
                held.setdefault(line.model, mean_of(cell.value))
    return found


def _protocols(pivots: list[Pivot], synthetic: bool) -> list[tuple[str, str, str, Condition, Condition]]:
    each = [(p, _scores(p, [c for c, place in enumerate(p.places) if place.synthetic == synthetic])) for p in pivots]
    return [
        ("protocols", a.protocol, b.protocol, one, other) for (a, one), (b, other) in itertools.combinations(each, 2)
    ]


def _within(pivots: list[Pivot], synthetic: bool) -> list[tuple[str, str, str, Condition, Condition]]:
    """Pairs of columns of one pivot that differ in how many labels were seen, or of which split they are."""
    found = []
    for pivot in pivots:
        held = [(c, place) for c, place in enumerate(pivot.places) if place.synthetic == synthetic]
        conditions: dict[tuple[str, str], list[int]] = {}
        for c, place in held:
            for kind, name in (("label fractions", _labels(place)), ("splits", _leaky(pivot, c))):
                if name:
                    conditions.setdefault((kind, name), []).append(c)
        for ((kind, a), one), ((other_kind, b), other) in itertools.combinations(conditions.items(), 2):
            if kind == other_kind:
                without = ("split", "split seed") if kind == "splits" else ("shots", "train fraction")
                seen, against = (_scores(pivot, places, without) for places in (one, other))
                found.append((kind, f"{pivot.protocol}, {a}", b, seen, against))
    return found


def _unit(place: Place, without: tuple[str, ...] = ()) -> str:
    """A dataset with all that can tell it from others of its title, but for what is named."""
    return json.dumps([place.title, {name: value for name, value in place.every if name not in without}])


def _scenes(unit: str) -> str:
    """What scenes a dataset is cut from, whatever its split: further cuts of them are not further datasets."""
    title = json.loads(unit)[0] if unit.startswith("[") else unit
    card = card_titled(title)
    return SCENES.get(title if card is None else card.name, title)


def _labels(place: Place) -> str:
    every = dict(place.every)
    if every["shots"] is not None:
        return f"{every['shots']} shots"
    return "all labels" if every["train fraction"] == 1 else f"{every['train fraction']:g} of the labels"


def _leaky(pivot: Pivot, column: int) -> str:
    held = pivot.column(column)
    state = leaks(held[0][1].row.records[0]) if held else None
    return "" if state is None else "leaky split" if state else "clean split"


def _stressed(records: Iterable[Record], synthetic: bool) -> list[tuple[str, str, str, Condition, Condition]]:
    """The clean score of each model against its score under each stress at its largest severity."""
    clean: dict[str, Condition] = {}
    stressed: dict[tuple[str, str], Condition] = {}
    for record in records:
        tolerances = record["metrics"].get("tolerance") or {}
        if not record["protocol"].startswith(STRESSED) or record["dataset"]["synthetic"] != synthetic:
            continue
        unit, model = record["dataset"]["name"], model_name(record)
        for name, tolerance in tolerances.items():
            items = [item for item in record.get("stress") or [] if item["name"] == name]
            value = items[-1]["metrics"].get(tolerance["metric"]) if items else None
            if value is None:
                continue
            clean.setdefault(record["protocol"], {}).setdefault(unit, {})[model] = tolerance["clean"]
            label = f"{name} {items[-1]['severity']:g} {items[-1]['unit']}".rstrip()
            stressed.setdefault((record["protocol"], label), {}).setdefault(unit, {})[model] = value
    return [
        ("clean and stressed", f"{protocol.removeprefix(STRESSED)}, clean", label, clean[protocol], condition)
        for (protocol, label), condition in stressed.items()
    ]
