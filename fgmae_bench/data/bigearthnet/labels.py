"""BigEarthNet's labels: 43 class names to the 19-class nomenclature, in either of the two orders in circulation.

The facts are in `labels.csv` next to the card.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card, find_card
from fgmae_bench.errors import BenchError, closest, unknown

# Order of the 19 classes -> its column of labels.csv. `original` is that of the publishers' label_indices.json and of
# the card.
ORDERS = {"original": "index_19_original_order", "alphabetical": "index_19_alphabetical_order"}
CLASSES = 19


@dataclass(frozen=True, kw_only=True)
class Nomenclature:
    """`classes_43` in their own order; `position` of each among the 19, None where it has none."""

    classes_43: tuple[str, ...]
    classes_19: tuple[str, ...]
    position: dict[str, int | None]


@cache
def nomenclature(order: str = "original") -> Nomenclature:
    """The two nomenclatures with the 19 classes in `order`; raises BenchError on an unknown order."""
    if order not in ORDERS:
        raise unknown("order of the 19 classes", order, ORDERS)
    with open(find_card("bigearthnet").parent / "labels.csv", encoding="utf-8", newline="") as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: int(row["index_43"]))
    places = {row["class_43"]: int(row[ORDERS[order]]) if row["class_19"] else None for row in rows}
    names = {int(row[ORDERS[order]]): row["class_19"] for row in rows if row["class_19"]}
    return Nomenclature(classes_43=tuple(places), classes_19=tuple(names[i] for i in range(CLASSES)), position=places)


def order_of(card: Card) -> str:
    """Name of the order that the classes of a card are in; raises BenchError where they are not the 19."""
    for order in ORDERS:
        if card.classes == nomenclature(order).classes_19:
            return order
    raise BenchError(
        f"{card.path}: classes are in no known order of the 19", f"give them in one of the orders: {', '.join(ORDERS)}"
    )


def multi_hot(labels: Iterable[str], where: object, order: str = "original") -> NDArray[np.uint8]:
    """(19,) zeros and ones of a patch's 43-class names; all zero where none of them has a place among the 19.

    Names of the 19 are not names of the 43: "Transitional woodland/shrub" here is "Transitional woodland, shrub" there.
    Raises BenchError naming `where` and the label.
    """
    known = nomenclature(order)
    hot = np.zeros(CLASSES, np.uint8)
    for label in labels:
        if label not in known.position:
            raise BenchError(f"{where}: unknown label '{label}'", closest(label, known.classes_43))
        place = known.position[label]
        if place is not None:
            hot[place] = 1
    return hot


def reorder(hot: NDArray[np.uint8], source: str, target: str) -> NDArray[np.uint8]:
    """Columns of (N, 19) multi-hot labels in order `source`, put into order `target`."""
    before, after = nomenclature(source).classes_19, nomenclature(target).classes_19
    return hot[:, [before.index(name) for name in after]]


_S1 = re.compile(
    r"(?P<scene>S1[A-D]_IW_GRDH_1SDV_(?P<date>\d{8})T(?P<time>\d{6}))_(?P<tile>\d{1,2}[A-Z]{3})_(?P<col>\d{1,3})_(?P<row>\d{1,3})"
)
_S1_SCENE = re.compile(r"S1[A-D]_IW_GRDH_1SDV_\d{8}T\d{6}")
_S1_PRODUCT = re.compile(r"S1[A-D]_IW_GRDH_1SDV_\d{8}T\d{6}_\d{8}T\d{6}_\d{6}_[0-9A-F]{6}_[0-9A-F]{4}")
_S2 = re.compile(
    r"(?P<scene>S2[A-D]_MSIL2A_(?P<date>\d{8})T(?P<time>\d{5,6})(?:_N\d{4}_R\d{3}_T(?P<tile>\d{1,2}[A-Z]{3}))?)_(?P<col>\d{1,3})_(?P<row>\d{1,3})"
)


@dataclass(frozen=True, kw_only=True)
class PatchName:
    """Parts of a patch's name. `col` and `row` count patches of 1.2 km east and south of the tile's corner, from 0.

    The column comes first in the name. `tile` is None where the name omits it (S2, v1). Times are UTC, as written:
    `clock` is hour, minute, second, of which the second may be 60 or 61 in S2 names.
    """

    scene: str
    date: str  # YYYYMMDD
    clock: tuple[int, int, int]
    tile: str | None
    row: int
    col: int

    @property
    def acquired(self) -> str:
        """The acquisition time, ISO 8601 in UTC without a zone; a second of 60 or 61 runs into the next minute."""
        day = datetime(int(self.date[:4]), int(self.date[4:6]), int(self.date[6:]))
        hour, minute, second = self.clock
        return (day + timedelta(hours=hour, minutes=minute, seconds=second)).isoformat()


def parse_s1(name: str) -> PatchName:
    """What an S1 patch name of v1 or v2 says, such as `S1A_IW_GRDH_1SDV_20170613T165043_33UUP_61_39`; BenchError for
    others.
    """
    return _parse(_S1, name, "S1", "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_61_39")


def parse_s2(name: str) -> PatchName:
    """What an S2 patch name says; BenchError for others.

    v1 omits the tile and drops the hour's leading zero in 69,866 of its names (`S2B_MSIL2A_20180204T94161_57_38`); v2
    carries the tile and pads row and column (`S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57`).
    """
    return _parse(_S2, name, "S2", "S2B_MSIL2A_20170924T93020_69_24")


def is_s1_patch(name: str) -> bool:
    """Whether `name` is that of an S1 patch."""
    return _S1.fullmatch(name) is not None


def is_s1_scene(name: str) -> bool:
    """Whether `name` is that of a scene folder of v2, such as `S1A_IW_GRDH_1SDV_20170613T165043`."""
    return _S1_SCENE.fullmatch(name) is not None


def is_s1_product(name: str) -> bool:
    """Whether `name` is a whole product name without `.SAFE`, as `scene_source` holds it."""
    return _S1_PRODUCT.fullmatch(name) is not None


def _parse(pattern: re.Pattern[str], name: str, sensor: str, example: str) -> PatchName:
    match = pattern.fullmatch(name)
    if match is None:
        raise BenchError(f"'{name}' is not an {sensor} patch name", f"expected one such as {example}")
    time = match["time"]
    clock = (int(time[:-4]), int(time[-4:-2]), int(time[-2:]))
    return PatchName(
        scene=match["scene"],
        date=match["date"],
        clock=clock,
        tile=match["tile"],
        row=int(match["row"]),
        col=int(match["col"]),
    )
