"""The label sources and schemes that a card names: known ones, and those that the card itself states as codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card
from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.metrics.segmentation import IGNORE

_REFUSED = 254  # mark of a code that is none of its source, within a look-up table only
MOST_CLASSES = 254

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A kind of label values: the class name of each code, and codes that mean "no label" (all others are refused)."""

    name: str
    title: str
    codes: Mapping[int, str]
    unlabelled: tuple[int, ...] = (0, IGNORE)


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Classes that a model is trained on or scored by: names and colours (#rrggbb) by training id.

    `ids` gives, for each source that the scheme is defined for, the training id of each of its codes, IGNORE for
    classes left out.
    """

    name: str
    classes: tuple[str, ...]
    colours: tuple[str, ...]
    ids: Mapping[str, Mapping[int, int]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Codes:
    """Values (…, H, W) uint8 as a file holds them, of one source."""

    values: Bytes
    source: Source

    def __post_init__(self) -> None:
        if not isinstance(self.values, np.ndarray) or self.values.dtype != np.uint8:
            raise TypeError(
                f"codes are a uint8 array, not {getattr(self.values, 'dtype', type(self.values).__name__)}: "
                "use Codes.of"
            )

    @classmethod
    def of(cls, values: NDArray[Any], source: Source, where: str = "labels") -> Codes:
        """Whole numbers of any type (…, H, W) as codes. Raises BenchError with the histogram on other values."""
        if values.dtype.kind not in "iu":
            raise BenchError(f"{where} holds {values.dtype} values", f"give whole numbers: codes of {source.title}")
        allowed = {*source.codes, *source.unlabelled}
        if values.size and (values.min() < 0 or values.max() > 255):
            raise _outside(values, source, where)
        codes = cls(values=values.astype(np.uint8, copy=False), source=source)
        if not allowed.issuperset(np.flatnonzero(codes.histogram()).tolist()):
            raise _outside(values, source, where)
        return codes

    def histogram(self) -> NDArray[np.int64]:
        """Pixels (256,) of each code."""
        return np.bincount(self.values.ravel(), minlength=256)

    def where(self, valid: NDArray[np.bool_] | None) -> Codes:
        """The codes with IGNORE under invalid pixels. `valid`: (H, W), or (bands, H, W), all of which must be valid."""
        if valid is None:
            return self
        seen = valid.all(axis=0) if valid.ndim == 3 else valid
        return Codes(values=np.where(seen, self.values, np.uint8(IGNORE)), source=self.source)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainIds:
    """Training ids (…, H, W) uint8 of one scheme, IGNORE where a pixel has no class."""

    values: Bytes
    scheme: Scheme


@dataclass(frozen=True)
class LabelMap:
    """The way from one source's codes to one scheme's training ids. Raises BenchError where there is none."""

    source: Source
    scheme: Scheme

    def __post_init__(self) -> None:
        if self.source.name not in self.scheme.ids:
            what = f"label scheme {self.scheme.name} is not defined for {self.source.name} labels ({self.source.title})"
            raise BenchError(what, f"give labels of {', '.join(sorted(self.scheme.ids))}, or another scheme")

    @cached_property
    def table(self) -> Bytes:
        """(256,) training id of each code: IGNORE for no label and for classes left out."""
        return np.where(self._marked == _REFUSED, np.uint8(IGNORE), self._marked)

    @cached_property
    def _marked(self) -> Bytes:
        """The table with _REFUSED at codes that are none of the source."""
        table = np.full(256, _REFUSED, np.uint8)
        table[list(self.source.unlabelled)] = IGNORE
        for code in self.source.codes:
            table[code] = self.scheme.ids[self.source.name].get(code, IGNORE)
        return table

    @cached_property
    def _translation(self) -> bytes:
        return self._marked.tobytes()

    def __call__(self, codes: Codes) -> TrainIds:
        """Training ids of codes. TypeError for anything but codes; BenchError for unknown or another source's codes."""
        if not isinstance(codes, Codes):
            raise TypeError(f"a label map takes Codes, not {type(codes).__name__}")
        if codes.source.name != self.source.name:
            what = f"the map of {self.source.name} labels was given {codes.source.name} labels"
            raise BenchError(what, f"map them by a scheme for {codes.source.name}")
        mapped = bytearray(np.ascontiguousarray(codes.values)).translate(
            self._translation
        )  # as numpy's take, in half the time
        if _REFUSED in mapped:
            raise _outside(codes.values, self.source, "labels")
        return TrainIds(values=np.frombuffer(mapped, np.uint8).reshape(codes.values.shape), scheme=self.scheme)

    def counts(self, histogram: NDArray[np.integer]) -> NDArray[np.int64]:
        """Pixels (…, K) of each class from pixels (…, 256) of each code."""
        totals = np.zeros((*histogram.shape[:-1], len(self.scheme.classes)), np.int64)
        for code, number in enumerate(self.table):
            if number != IGNORE:
                totals[..., number] += histogram[..., code]
        return totals


@dataclass(frozen=True, kw_only=True)
class ClassMatching:
    """Predictions of one scheme read in another, by class name.

    `table` (K_train,) holds eval ids; K_eval, which no reference has, stands for a class that the eval scheme lacks.
    """

    table: NDArray[np.int64]
    only_train: tuple[str, ...]  # classes whose predictions can only be wrong
    only_eval: tuple[str, ...]  # classes that are never predicted


def class_matching(train: Scheme, evaluated: Scheme) -> ClassMatching:
    """How predictions in the scheme `train` are scored by labels in the scheme `evaluated`."""
    place = {name: number for number, name in enumerate(evaluated.classes)}
    return ClassMatching(
        table=np.array([place.get(name, len(place)) for name in train.classes], np.int64),
        only_train=tuple(name for name in train.classes if name not in place),
        only_eval=tuple(name for name in evaluated.classes if name not in train.classes),
    )


def mismatch(train: LabelMap, evaluated: LabelMap) -> str | None:
    """What differs between the labels trained on and those scored by, or None; for the note `label_scheme_mismatch`."""
    if (train.source.name, train.scheme.name) == (evaluated.source.name, evaluated.scheme.name):
        return None
    text = (
        f"trained on {train.source.name} labels as {train.scheme.name}, scored by {evaluated.source.name} as "
        f"{evaluated.scheme.name}"
    )
    matching = class_matching(train.scheme, evaluated.scheme)
    if matching.only_train:
        text += f"; predictions of {', '.join(matching.only_train)} can only be wrong"
    if matching.only_eval:
        text += f"; {', '.join(matching.only_eval)} are never predicted"
    return text


def label_map(source: str, scheme: str) -> LabelMap:
    """The map from a known source to a known scheme, by name. Raises BenchError on unknown names and pairs."""
    if source not in SOURCES:
        raise unknown("label source", source, SOURCES)
    if scheme not in SCHEMES:
        raise unknown("label scheme", scheme, SCHEMES)
    return LabelMap(SOURCES[source], SCHEMES[scheme])


def own_scheme(source: Source, colours: Mapping[int, str], name: str) -> Scheme:
    """The scheme that gives every code of a source a training id of its own, in the order of the codes."""
    codes = sorted(source.codes)
    if len(codes) > MOST_CLASSES:
        raise BenchError(f"label source {source.name} has {len(codes)} codes", f"give {MOST_CLASSES} at most")
    classes = tuple(source.codes[code] for code in codes)
    ids = {code: number for number, code in enumerate(codes)}
    return Scheme(name=name, classes=classes, colours=tuple(colours[code] for code in codes), ids={source.name: ids})


def histogram_text(counts: Mapping[int, int], source: Source) -> str:
    """Shares of codes from their pixels, such as `1 Forest 12.0 %, 18 ? 0.1 %`."""
    total = max(sum(counts.values()), 1)
    named = dict.fromkeys(source.unlabelled, "no label") | dict(source.codes)
    return ", ".join(
        f"{code} {named.get(code, '?')} {count / total:.1%}" for code, count in sorted(counts.items()) if count
    )


def _outside(values: NDArray[Any], source: Source, where: str) -> BenchError:
    """The error for values that are not codes of a source, with their histogram."""
    found, counts = (array.tolist() for array in np.unique(values, return_counts=True))
    strange = [str(code) for code in found if code not in source.codes and code not in source.unlabelled]
    shown = dict(sorted(zip(found, counts, strict=True), key=lambda pair: -pair[1])[:20])
    is_not = "is not a code" if len(strange) == 1 else "are not codes"
    what = f"{where}: {', '.join(strange[:5])} {is_not} of {source.title}"
    return BenchError(f"{what}, found {histogram_text(shown, source)}", "check which kind of labels the file holds")


# MODIS land cover MCD12Q1, type 1: IGBP legend, codes 1-17.
IGBP = Source(
    name="igbp",
    title="IGBP (MODIS)",
    codes={
        1: "Evergreen Needleleaf Forests",
        2: "Evergreen Broadleaf Forests",
        3: "Deciduous Needleleaf Forests",
        4: "Deciduous Broadleaf Forests",
        5: "Mixed Forests",
        6: "Closed (Dense) Shrublands",
        7: "Open (Sparse) Shrublands",
        8: "Woody Savannas",
        9: "Savannas",
        10: "Grasslands",
        11: "Permanent Wetlands",
        12: "Croplands",
        13: "Urban and Built-Up Lands",
        14: "Croplands/Natural Vegetation Mosaics",
        15: "Permanent Snow and Ice",
        16: "Barren",
        17: "Water Bodies",
    },
)
# The simplified legend of the Data Fusion Contest 2020; 0 is not used.
DFC = Source(
    name="dfc",
    title="DFC2020",
    codes={
        1: "Forest",
        2: "Shrubland",
        3: "Savanna",
        4: "Grassland",
        5: "Wetlands",
        6: "Croplands",
        7: "Urban/Built-up",
        8: "Snow/Ice",
        9: "Barren",
        10: "Water",
    },
)
# MCD12Q1, FAO land cover classification system: LCCS1, LCCS2, LCCS3. No scheme is defined for them.
LCCS_COVER = Source(
    name="lccs_cover",
    title="LCCS land cover (MODIS)",
    codes={
        1: "Barren",
        2: "Permanent Snow and Ice",
        3: "Water Bodies",
        11: "Evergreen Needleleaf Forests",
        12: "Evergreen Broadleaf Forests",
        13: "Deciduous Needleleaf Forests",
        14: "Deciduous Broadleaf Forests",
        15: "Mixed Broadleaf/Needleleaf Forests",
        16: "Mixed Broadleaf Evergreen/Deciduous Forests",
        21: "Open Forests",
        22: "Sparse Forests",
        31: "Dense Herbaceous",
        32: "Sparse Herbaceous",
        41: "Dense Shrublands",
        42: "Shrubland/Grassland Mosaics",
        43: "Sparse Shrublands",
    },
)
LCCS_USE = Source(
    name="lccs_use",
    title="LCCS land use (MODIS)",
    codes={
        1: "Barren",
        2: "Permanent Snow and Ice",
        3: "Water Bodies",
        9: "Urban and Built-up Lands",
        10: "Dense Forests",
        20: "Open Forests",
        25: "Forest/Cropland Mosaics",
        30: "Natural Herbaceous",
        35: "Natural Herbaceous/Croplands Mosaics",
        36: "Herbaceous Croplands",
        40: "Shrublands",
    },
)
LCCS_HYDROLOGY = Source(
    name="lccs_hydrology",
    title="LCCS surface hydrology (MODIS)",
    codes={
        1: "Barren",
        2: "Permanent Snow and Ice",
        3: "Water Bodies",
        10: "Dense Forests",
        20: "Open Forests",
        27: "Woody Wetlands",
        30: "Grasslands",
        40: "Shrublands",
        50: "Herbaceous Wetlands",
        51: "Tundra",
    },
)
SOURCES = {source.name: source for source in (IGBP, LCCS_COVER, LCCS_USE, LCCS_HYDROLOGY, DFC)}

# IGBP code -> DFC code: the table of the contest's baseline (lukasliebel/dfc2020_baseline, DFC2020_CLASSES).
IGBP_TO_DFC = {
    1: 1,
    2: 1,
    3: 1,
    4: 1,
    5: 1,
    6: 2,
    7: 2,
    8: 3,
    9: 3,
    10: 4,
    11: 5,
    12: 6,
    13: 7,
    14: 6,
    15: 8,
    16: 9,
    17: 10,
}

DFC_COLOURS = dict(
    zip(
        DFC.codes.values(),
        (
            "#009900",
            "#c6b044",
            "#fbff13",
            "#b6ff05",
            "#27ff87",
            "#c24f44",
            "#a5a5a5",
            "#69fff8",
            "#f9ffa4",
            "#1c0dff",
        ),
        strict=True,
    )
)
IGBP_COLOURS = dict(
    zip(
        IGBP.codes,
        (
            "#05450a",
            "#086a10",
            "#54a708",
            "#78d203",
            "#009900",
            "#c6b044",
            "#dcd159",
            "#dade48",
            "#fbff13",
            "#b6ff05",
            "#27ff87",
            "#c24f44",
            "#a5a5a5",
            "#ff6d4c",
            "#69fff8",
            "#f9ffa4",
            "#1c0dff",
        ),
        strict=True,
    )
)


def _of_dfc(name: str, left_out: tuple[str, ...] = ()) -> Scheme:
    """DFC classes in their order without some, for DFC labels and, through the table of the baseline, for IGBP ones."""
    classes = tuple(label for label in DFC.codes.values() if label not in left_out)
    dfc = {code: classes.index(label) if label in classes else IGNORE for code, label in DFC.codes.items()}
    igbp = {code: dfc[simple] for code, simple in IGBP_TO_DFC.items()}
    return Scheme(
        name=name,
        classes=classes,
        colours=tuple(DFC_COLOURS[label] for label in classes),
        ids={"dfc": dfc, "igbp": igbp},
    )


SCHEMES = {
    "igbp17": own_scheme(IGBP, IGBP_COLOURS, "igbp17"),
    "dfc10": _of_dfc("dfc10"),
    "dfc10_no_savanna": _of_dfc("dfc10_no_savanna", ("Savanna",)),
    "dfc8": _of_dfc("dfc8", ("Savanna", "Snow/Ice")),
}


def card_source(card: Card, name: str | None = None) -> Source:
    """The label source `name`, by default the card's usual one. Raises BenchError where the card lacks it."""
    name = name or card.label_source
    if name not in card.label_sources:
        raise unknown(f"label source of {card.title}", name, card.label_sources)
    stated = card.label_sources[name]
    if not stated.codes:
        if name not in SOURCES:
            raise unknown("label source", name, SOURCES)
        return SOURCES[name]
    if not all(code.isdecimal() and 0 < int(code) < 255 for code in stated.codes):
        raise BenchError(
            f"{card.path}: label_sources.{name}.codes are {', '.join(stated.codes)}", "give whole numbers from 1 to 254"
        )
    return Source(
        name=name, title=f"{card.title} '{name}'", codes={int(code): title for code, title in stated.codes.items()}
    )


def card_scheme(card: Card, name: str | None = None) -> Scheme:
    """The label scheme called `name`, by default the card's usual one; a scheme that is not known is that of the card's
    own codes.
    """
    name = name or card.label_scheme
    if name not in card.label_schemes:
        raise unknown(f"label scheme of {card.title}", name, card.label_schemes)
    if name in SCHEMES:
        return SCHEMES[name]
    own = next((source for source, stated in card.label_sources.items() if stated.codes), None)
    if own is None:
        raise unknown("label scheme", name, SCHEMES)
    colours, source = card.label_sources[own].colours, card_source(card, own)
    absent = [str(code) for code in source.codes if str(code) not in colours]
    if absent:
        raise BenchError(
            f"{card.path}: label_sources.{own}.colours lacks {', '.join(absent)}", "give every code a colour"
        )
    return own_scheme(source, {int(code): colour for code, colour in colours.items()}, name)


def card_map(card: Card, source: str | None = None, scheme: str | None = None) -> LabelMap:
    """The map from a source to a scheme of a card, by default the usual ones. Raises BenchError where there is none."""
    return LabelMap(card_source(card, source), card_scheme(card, scheme))
