"""BigEarthNet's labels: 43 class names to the 19-class nomenclature, in either of the two orders in circulation.

The facts lie in `labels.csv` beside the card.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.cards import Card, find_card
from fgmae_bench.errors import BenchError, closest, unknown

# Order of the 19 classes -> its column of labels.csv. `original` is that of the publishers' label_indices.json and of the card.
ORDERS = {"original": "index_19_original_order", "alphabetical": "index_19_alphabetical_order"}
CLASSES = 19


@dataclass(frozen=True, kw_only=True)
class Nomenclature:
    """`classes_43` in their own order; `position` of each among the 19 in one order, None where it has no place there."""

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
    raise BenchError(f"{card.path}: classes are in no known order of the 19", f"give them in one of the orders: {', '.join(ORDERS)}")


def multi_hot(labels: Iterable[str], where: object, order: str = "original") -> NDArray[np.uint8]:
    """(19,) zeros and ones of a patch's 43-class names; all zero where none of them has a place among the 19.

    Names of the 19 are no names of the 43: "Transitional woodland/shrub" here is "Transitional woodland, shrub" there.
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


def multi_hot_19(labels: Iterable[str], where: object, order: str = "original") -> NDArray[np.uint8]:
    """(19,) zeros and ones of 19-class names, as BigEarthNet v2 writes them. Raises BenchError naming `where` and the label."""
    classes = nomenclature(order).classes_19
    hot = np.zeros(CLASSES, np.uint8)
    for label in labels:
        if label not in classes:
            raise BenchError(f"{where}: unknown label '{label}'", closest(label, classes))
        hot[classes.index(label)] = 1
    return hot


def reorder(hot: NDArray[np.uint8], source: str, target: str) -> NDArray[np.uint8]:
    """Columns of (N, 19) multi-hot labels in order `source`, put into order `target`."""
    before, after = nomenclature(source).classes_19, nomenclature(target).classes_19
    return hot[:, [before.index(name) for name in after]]
