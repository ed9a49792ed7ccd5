"""The two sides of a cell: labels under a scheme, mapped once or twice; and why a pair of them cannot be run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card
from fgmae_bench.data.labels import Codes, LabelMap, Scheme, TrainIds
from fgmae_bench.data.schemes import DFC, IGBP, SCHEMES, card_map, card_scheme
from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.segmentation import IGNORE, eval_columns


@dataclass(frozen=True, kw_only=True)
class Side:
    """Labels of a source under a scheme; `double`: DFC codes that are taken for IGBP codes, the published mistake."""

    source: str
    scheme: str
    double: bool = False

    @property
    def name(self) -> str:
        """As tables and figures call it."""
        return f"{self.scheme} of {self.source}" + (", mapped twice" if self.double else "")

    def map(self, card: Card) -> LabelMap:
        """The right map. Raises BenchError where card or scheme do not know the source."""
        return card_map(card, self.source, self.scheme)

    def table(self, card: Card) -> NDArray[np.uint8]:
        """(256,) the training id that each code ends up with, IGNORE where it has none."""
        right = self.map(card)
        return double_table(right.scheme) if self.double else right.table


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is trained on, and what is scored by; `reason` says why it cannot be run, None where it can."""

    train: Side
    evaluated: Side
    reason: str | None = None


def sides(card: Card, sources: Sequence[str], schemes: Sequence[str], *, double: bool = True) -> list[Side]:
    """Every source under every scheme, impossible ones too, then DFC labels mapped twice where both are known."""
    found = [Side(source=source, scheme=scheme) for source in sources for scheme in schemes]
    usual = sorted(schemes, key=lambda name: name != card.label_scheme)
    twice = [Side(source=DFC.name, scheme=name, double=True) for name in usual if _maps_twice(card, name)]
    return found + (twice[:1] if double and DFC.name in sources else [])


def _maps_twice(card: Card, scheme: str) -> bool:
    """Whether a scheme can be applied to DFC labels as if they were IGBP ones."""
    return {"dfc", "igbp"} <= set(card_scheme(card, scheme).ids)


def default_sources(card: Card) -> list[str]:
    """The card's label sources that any of its schemes is defined for."""
    defined = {source for scheme in card.label_schemes for source in card_scheme(card, scheme).ids}
    return [source for source in card.label_sources if source in defined]


def grid(card: Card, train: Sequence[Side], evaluated: Sequence[Side]) -> list[Cell]:
    """Every pair in the order of the training sides; a pair that cannot be has its reason."""
    return [Cell(train=one, evaluated=other, reason=_reason(card, one, other)) for one in train for other in evaluated]


def _reason(card: Card, train: Side, evaluated: Side) -> str | None:
    """Why the labels of two sides cannot be compared."""
    try:
        eval_columns(train.map(card).scheme.classes, evaluated.map(card).scheme.classes)
    except BenchError as error:
        return error.what
    return None


def shared_classes(card: Card, cell: Cell) -> int:
    """Classes that both schemes have by name."""
    return len(set(cell.train.map(card).scheme.classes) & set(cell.evaluated.map(card).scheme.classes))


def double_mapped(codes: Codes, scheme: Scheme = SCHEMES["dfc10"]) -> TrainIds:
    """Training ids of DFC codes that were taken for IGBP codes, as a loader does whose flag says "this is MODIS".

    Forest to Wetlands become Forest, Croplands and Urban Shrubland, Snow and Barren Savanna (IGNORE where the scheme
    has none), Water Grassland; nothing fails. Raises TypeError for anything but codes, BenchError unless they are
    DFC's.
    """
    if not isinstance(codes, Codes):
        raise TypeError(f"double_mapped takes Codes, not {type(codes).__name__}")
    if codes.source.name != DFC.name:
        raise BenchError(
            f"double mapping is the mistake of {DFC.name} labels, not of {codes.source.name}", "leave the cell out"
        )
    return TrainIds(values=np.take(double_table(scheme), codes.values), scheme=scheme)


def double_table(scheme: Scheme = SCHEMES["dfc10"]) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """(256,) the training id that each DFC code ends up with."""
    wrong = LabelMap(IGBP, scheme).table
    table = np.full(256, IGNORE, np.uint8)
    for code in DFC.codes:
        table[code] = wrong[code]
    return table
