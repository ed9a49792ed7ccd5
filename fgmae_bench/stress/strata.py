"""The clean score by season, orbit and what else a card states: description, but where places repeat."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from fgmae_bench.data.strata import Strata, Stratum
from fgmae_bench.errors import note
from fgmae_bench.metrics.intervals import intervals, paired_differences
from fgmae_bench.metrics.statistics import finite
from fgmae_bench.stress.reading import Reading

Note = dict[str, str]
MOST = 24  # values of a stratum; more are groups, not strata


def by_stratum(reading: Reading, strata: Strata) -> tuple[dict[str, Any], list[Note]]:
    """(scores by stratum and value as a record holds them, notes on what is left out)."""
    found, notes = {}, []
    for each in strata.known:
        values = sorted(set(each.values))
        if 1 < len(values) <= MOST:
            found[each.name] = _scores(reading, each, values, strata.places)
        elif len(values) == 1:
            notes.append(note("one_stratum", f"{each.name}: all of {values[0]}"))
        else:
            notes.append(note("one_stratum", f"{each.name}: {len(values)} values, more than {MOST}"))
    if not strata.known:
        text = "neither the card nor names or files say when or in which orbit samples were taken: no strata"
        notes.append(note("no_strata", text))
    return found, notes


def _scores(reading: Reading, stratum: Stratum, values: list[str], places: tuple[str, ...] | None) -> dict[str, Any]:
    """Score, interval and units of each value; differences of values on the places that both show."""
    held, scores = np.asarray(stratum.values, dtype=str), {}
    for value in values:
        part = reading.part(np.flatnonzero(held == value), None)
        spread = intervals(part.units(part.clean))
        scores[value] = {
            "samples": int((held == value).sum()),
            "units": spread["units"],
            "over": spread["over"],
            "value": finite(part.evaluate(part.clean)[part.metric]),
            "interval": spread["test"].get(part.metric),
            "withheld": spread["withheld"].get(part.metric),
        }
    pairs = [] if places is None else [_pair(reading, held, *two, places) for two in combinations(values, 2)]
    return {
        "source": stratum.source,
        "metric": reading.metric,
        "values": scores,
        "pairs": [pair for pair in pairs if pair is not None],
    }


def _pair(reading: Reading, held: Any, a: str, b: str, places: tuple[str, ...]) -> dict[str, Any] | None:
    """A less B on the places that are in both, which are the units; None where there are none."""
    names = np.asarray(places, dtype=str)
    common = np.intersect1d(names[held == a], names[held == b])
    if not len(common):
        return None
    rows = [np.flatnonzero((held == value) & np.isin(names, common)) for value in (a, b)]
    parts = [reading.part(kept, [places[row] for row in kept]) for kept in rows]
    first, second = (part.units(part.clean) for part in parts)
    gap = paired_differences(first, second)[reading.metric]
    return {
        "a": a,
        "b": b,
        "places": len(common),
        "difference": finite(gap.a - gap.b),
        "interval": None if gap.low is None or gap.high is None else [gap.low, gap.high],
        "p": gap.p,
        "withheld": gap.reason,
    }
