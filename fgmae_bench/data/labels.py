"""Labels of pixels: the codes of a source, the classes of a scheme, and the map from one to the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.segmentation import IGNORE

_REFUSED = 254  # mark of a code that is none of its source, within a look-up table only
MOST_CLASSES = 254

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A kind of label values: the class name of each code, and codes that mean "no label" (all others are refused).

    `raw` gives the code of each value where files hold other numbers than codes, which are 0 to 254 and IGNORE.
    """

    name: str
    title: str
    codes: Mapping[int, str]
    unlabelled: tuple[int, ...] = (0, IGNORE)
    raw: Mapping[int, int] | None = None

    @cached_property
    def values(self) -> dict[int, str]:
        """The meaning of each value that a file may hold."""
        named = dict.fromkeys(self.unlabelled, "no label") | dict(self.codes)
        return named if self.raw is None else {value: named[code] for value, code in self.raw.items()}

    @cached_property
    def facts(self) -> str:
        """What stored codes depend on: the name, and how values became codes."""
        return self.name if self.raw is None else f"{self.name} {sorted(self.raw.items())}"


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
        if source.raw is not None:
            return cls(values=_coded(values, source, where), source=source)
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
    return ", ".join(
        f"{code} {source.values.get(code, '?')} {count / total:.1%}" for code, count in sorted(counts.items()) if count
    )


def _outside(values: NDArray[Any], source: Source, where: str) -> BenchError:
    """The error for values that are not codes of a source, with their histogram."""
    found, counts = (array.tolist() for array in np.unique(values, return_counts=True))
    strange = [str(code) for code in found if code not in source.values]
    shown = dict(sorted(zip(found, counts, strict=True), key=lambda pair: -pair[1])[:20])
    is_not = "is not a code" if len(strange) == 1 else "are not codes"
    what = f"{where}: {', '.join(strange[:5])} {is_not} of {source.title}"
    return BenchError(f"{what}, found {histogram_text(shown, source)}", "check which kind of labels the file holds")


def _coded(values: NDArray[Any], source: Source, where: str) -> Bytes:
    """The codes of values (…, H, W) as files hold them. Raises BenchError where one is none of the source's."""
    assert source.raw is not None
    known = np.array(sorted(source.raw))
    places = np.clip(np.searchsorted(known, values), 0, len(known) - 1)
    if not np.array_equal(known[places], values):
        raise _outside(values, source, where)
    return np.array([source.raw[value] for value in known.tolist()], np.uint8)[places]
