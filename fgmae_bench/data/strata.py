"""Season and orbit of samples, as far as the card, their names or their files tell: strata that scores are given by."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fgmae_bench.config.cards import Card
from fgmae_bench.data.extra_inputs import acquired
from fgmae_bench.data.groups import values_of
from fgmae_bench.data.index import Index, Rows, some_of
from fgmae_bench.data.spatial import chip_centres
from fgmae_bench.errors import BenchError

SEASON, ORBIT, PLACE = "season", "orbit", "place"
QUARTERS = ("Dec-Feb", "Mar-May", "Jun-Aug", "Sep-Nov")  # by month: which season that is depends on the hemisphere
PRODUCT = re.compile(
    r"S1[A-D]_[A-Z0-9]{2}_[A-Z0-9_]{4}_[A-Z0-9]{4}_\d{8}T(?P<clock>\d{6})"
    r"(?:_\d{8}T\d{6}_\d{6}_[0-9A-F]{6}(?:_[0-9A-F]{4})?)?"
)
TILE = re.compile(r"_(?P<zone>[0-6]?\d)[C-HJ-NP-X][A-HJ-NP-Z]{2}(?=_|$)")  # of the military grid: zone, band, no square
UNKNOWN = "unknown"
# Local solar hours of Sentinel-1: near 18 going up, near 6 coming down; 78 degrees north it is up to 2.8 hours away.
ASCENDING, DESCENDING, APART = 18.0, 6.0, 3.5


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """What some samples are divided by: a value each, and where it is from."""

    name: str
    values: tuple[str, ...]
    source: str


@dataclass(frozen=True, kw_only=True)
class Strata:
    """The strata of samples, and of each the place that it shows, where several samples may show one."""

    known: tuple[Stratum, ...]
    places: tuple[str, ...] | None

    def of(self, kept: Rows) -> Strata:
        """Those of some of the samples, by their places among these."""
        known = tuple(dataclasses.replace(each, values=tuple(each.values[row] for row in kept)) for each in self.known)
        return Strata(known=known, places=self.places and tuple(self.places[row] for row in kept))

    def sha256(self) -> str:
        """Of all that is known."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()


def strata_of(card: Card, index: Index, rows: Rows, cache: Path) -> Strata:
    """The strata of the samples `rows`: those that the card states under [strata], and season and orbit where names,
    files or georeferences of all of them say them.

    Raises BenchError where what the card states does not fit the samples.
    """
    some, found = some_of(index, rows), {}
    for name, stated in card.strata.items():
        values = values_of(card, stated, some, cache, f"strata.{name}")
        found[name] = Stratum(name=name, values=values, source="card")
    for name, derived in ((SEASON, _seasons(some)), (ORBIT, _orbits(some, cache))):
        if derived is not None:
            found.setdefault(name, derived)
    place = found.pop(PLACE, None)
    return Strata(known=tuple(found.values()), places=place.values if place else _places(some.ids))


def _seasons(index: Index) -> Stratum | None:
    """The quarter of the year of each sample, None where one has no date, or one that cannot be (0000:00:00)."""
    values = []
    for row in range(len(index.files)):
        try:
            day = acquired(index, row)
        except BenchError:
            return None
        if day is None:
            return None
        values.append(QUARTERS[day.month % 12 // 3])
    return Stratum(name=SEASON, values=tuple(values), source="product name or file")


def _orbits(index: Index, cache: Path) -> Stratum | None:
    """Whether each sample was taken going up or coming down, by the local solar time of its product's name; None where
    a name holds no time, or nothing says the longitude.
    """
    found = [PRODUCT.search(f"{id}/{index.path(row).name}") for row, id in enumerate(index.ids)]
    if not found or not all(found):
        return None
    clocks = [match["clock"] for match in found if match]
    hours = np.array([int(clock[:2]) + int(clock[2:4]) / 60 for clock in clocks])
    tiles = [TILE.search(PRODUCT.sub("", id)) for id in index.ids]  # _1SDV of a product would be one
    if all(tiles):  # the middle of its zone is within 12 minutes
        longitude = np.array([6.0 * int(match["zone"]) - 183 for match in tiles if match])
    else:
        try:
            longitude = chip_centres(index, cache)[:, 0]
        except BenchError:
            return None
    return Stratum(name=ORBIT, values=tuple(map(pass_at, hours + longitude / 15)), source="time and longitude")


def pass_at(hour: float) -> str:
    """Direction of Sentinel-1 at a local solar hour, `unknown` where it can be neither."""
    for name, centre in (("ascending", ASCENDING), ("descending", DESCENDING)):
        if abs((hour - centre + 12) % 24 - 12) <= APART:
            return name
    return UNKNOWN


def _places(ids: Sequence[str]) -> tuple[str, ...] | None:
    """What is left of names without the product's: the place, where some of them are equal."""
    if not all(PRODUCT.search(id) for id in ids):
        return None
    left = tuple(PRODUCT.sub("", id) for id in ids)
    return left if len(set(left)) < len(left) and all(name.strip("_/") for name in left) else None
