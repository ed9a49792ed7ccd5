"""The layout `zarr`: one store whose variables have samples as their first dimension, images, labels and maps alike."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card, LabelFile, Signal
from fgmae_bench.config.contract import POLARISATIONS
from fgmae_bench.data.dfc.maps import without_values
from fgmae_bench.data.index import Index
from fgmae_bench.data.labels import Codes, Source
from fgmae_bench.data.raster import Stored
from fgmae_bench.data.schemes import card_source
from fgmae_bench.data.signal import chip_of, leave_out_fill
from fgmae_bench.data.table import Found, Row, columns_of, indexed, read_rows
from fgmae_bench.data.zarr_metadata import TODO, Variable
from fgmae_bench.data.zarr_store import Store, digest_of, open_store
from fgmae_bench.errors import BenchError, closest
from fgmae_bench.views.chip import Chip

SENSORS = ("s1", "sar", "sentinel1", "sentinel-1", "sigma0", "gamma0", "backscatter", "image", "x")  # likely images
BAND = re.compile(rf"(?<![A-Za-z])({'|'.join(POLARISATIONS)})(?![A-Za-z])", re.IGNORECASE)


def zarr_samples(card: Card, root: Path) -> Index:
    """Index of the samples of a Zarr store: `layout.store` in the data's folder, or the folder itself.

    `layout.variable` holds the images, (sample, band, y, x), or one variable a band, `{band}` in its name, each
    (sample, y, x). Labels, groups and parts are variables of one value a sample, or columns of `layout.table`, whose
    rows name samples of the store; `folder` of a label source is the variable of the maps (sample, y, x). Raises
    BenchError as `indexed`, and naming a variable that is not there or has another number of samples.
    """
    held = card.arrangement
    path = root / held.store
    store, digest = open_store(path), digest_of(path)
    count = _samples(store, card)
    for stated in card.label_sources.values():
        _require_map(store, stated.folder, count, tuple(card.signal.size))
    ids = sample_ids(store, held.path, count)
    numbers = {name: number for number, name in enumerate(ids)}
    if len(numbers) < len(ids):
        twice = next(name for number, name in enumerate(ids) if numbers[name] != number)
        raise BenchError(f"{path}: two samples are named '{twice[:80]}'", "give each a name of its own")
    lead, stats = f"{held.store}/" if held.store else "", [(int(digest[:15], 16), 0)]

    def find(row: Row) -> Found:
        name = row.values[held.path]
        if name not in numbers:
            what = f"{source}, line {row.number}: '{name[:80]}' is not a sample of {path}"
            raise BenchError(what, closest(name[:80], ids[:1000]))
        return name, f"{lead}{numbers[name]}", stats

    source = root / held.table if held.table else path
    rows = read_rows(card, source) if held.table else _rows(card, store, ids)
    reader = StoreReader(path=str(path.resolve()), digest=digest, variable=held.variable)
    index = indexed(card, root, str(source), rows, find, reader)
    if not card.per_pixel:
        return index
    known = {} if card.task == "regression" else {name: card_source(card, name) for name in card.label_sources}
    places = tuple(int(Path(file).name) for file in index.files)
    maps = StoreMaps(path=str(path.resolve()), digest=digest, numbers=places, stated=card.label_sources, known=known)
    return dataclasses.replace(index, maps=maps)


def band_variables(store: Store, pattern: str, bands: tuple[str, ...]) -> list[Variable]:
    """The variable of each band, whose name may be in small letters, or the one that holds all of them."""
    if "{band}" not in pattern:
        return [store.variable(pattern)]
    found = []
    for band in bands:
        names = [pattern.replace("{band}", spelt) for spelt in (band, band.lower())]
        found.append(store.variable(next((name for name in names if name in store.variables), names[0])))
    return found


def likely_images(store: Store) -> tuple[str, tuple[str, ...]]:
    """(`layout.variable`, bands that its names tell) of a store without a card. Raises BenchError where none is likely,
    or several are.
    """
    numeric = {name: held for name, held in store.variables.items() if held.dtype.kind in "fiu"}
    patterns: dict[str, set[str]] = {}
    for name, held in numeric.items():
        if len(held.shape) == 3 and (match := BAND.search(name)):
            patterns.setdefault(BAND.sub("{band}", name, count=1), set()).add(match[1].upper())
    if patterns:
        most = max(patterns, key=lambda pattern: (len(patterns[pattern]), -len(pattern)))
        return most, tuple(band for band in POLARISATIONS if band in patterns[most])
    of_four = [name for name, held in numeric.items() if len(held.shape) == 4]
    likely = of_four or [name for name, held in numeric.items() if len(held.shape) == 3 and held.dtype.kind == "f"]
    named = [name for name in likely if name.lower().startswith(SENSORS)]
    chosen = likely if len(likely) == 1 else named
    if len(chosen) != 1:
        shown = ", ".join(f"{name} {'x'.join(map(str, held.shape))}" for name, held in store.variables.items())
        todo = "images are one variable (sample, band, y, x), or VV and VH, each (sample, y, x)"
        raise BenchError(f"{store.path}: no variable is recognised as the images ({shown[:200]})", todo)
    return chosen[0], ()


def _samples(store: Store, card: Card) -> int:
    """How many samples the images are. Raises BenchError on variables that are not images, or of different numbers."""
    variables = band_variables(store, card.arrangement.variable, card.signal.bands)
    wanted = 3 if len(variables) > 1 else (3, 4)
    for variable in variables:
        if variable.dtype.kind not in "fiu" or len(variable.shape) not in np.atleast_1d(wanted):
            shape = "x".join(map(str, variable.shape))
            what = f"{store.path}: variable '{variable.name}' holds {variable.dtype} values of {shape}"
            raise BenchError(what, "images are (sample, band, y, x), or (sample, y, x) of one band")
    counts = {variable.shape[0] for variable in variables}
    if len(counts) != 1 or not counts - {0}:
        raise BenchError(f"{store.path}: bands of {' and '.join(map(str, sorted(counts)))} samples", TODO)
    return counts.pop()


def _require_map(store: Store, name: str, count: int, size: tuple[int, ...]) -> None:
    variable = store.variable(name)
    if variable.shape != (count, *size):
        held, wanted = ("x".join(map(str, shape)) for shape in (variable.shape, (count, *size)))
        raise BenchError(f"{store.path}: variable '{name}' is {held}, its images are {wanted}", TODO)


def sample_ids(store: Store, name: str, count: int) -> list[str]:
    """Names of the samples: of the variable `name`, else of the coordinate of their dimension, else their numbers."""
    dims = next((held.dims for held in store.variables.values() if held.shape[:1] == (count,) and held.dims), ())
    for each in (name, *dims[:1]):
        if each in store.variables and store.variables[each].shape == (count,):
            return texts(store, each)
    return [f"{number:0{len(str(count - 1))}}" for number in range(count)]


def texts(store: Store, name: str) -> list[str]:
    """Values of a variable (N,) as text; of one (N, C) of 0 and 1 the names of the columns that are 1, joined by `;`.

    Codes become the names that `flag_values` and `flag_meanings` of the CF conventions give them.
    """
    variable, values = store.variable(name), store.whole(name)
    if values.ndim == 2:
        over = variable.dims[1] if len(variable.dims) == 2 else ""
        named = over in store.variables and store.variables[over].shape == values.shape[1:]
        columns = texts(store, over) if named else [str(number) for number in range(values.shape[1])]
        return [";".join(columns[place] for place in np.flatnonzero(row)) for row in values]
    return [_text(value, variable.codes) for value in values.tolist()]


def _text(value: Any, codes: Mapping[str, str]) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace").strip()
    if isinstance(value, float):
        return "" if value != value else repr(value)
    text = str(int(value) if isinstance(value, bool) else value).strip()
    return codes.get(text, text)


def _rows(card: Card, store: Store, ids: list[str]) -> list[Row]:
    """What the variables of a store say of each sample, as rows of a table."""
    held = card.arrangement
    values = {held.path: ids}
    for name in columns_of(card)[1:]:
        shape = store.variable(name).shape
        if shape[0] != len(ids) or len(shape) > 2:
            what = f"{store.path}: variable '{name}' is {'x'.join(map(str, shape))} for {len(ids)} samples"
            raise BenchError(what, TODO)
        found = texts(store, name)
        mark = held.separator or ","
        values[name] = [text.replace(";", mark) for text in found] if len(shape) == 2 else found
    if len(held.place) == 1:
        raise BenchError(f"{card.path}: layout.place names one variable", "name those of longitude and latitude")
    return [Row(n + 1, {name: column[n] for name, column in values.items()}, table=store.path) for n in range(len(ids))]


@functools.lru_cache(maxsize=4)
def _held(path: str, digest: str) -> Store:
    """The store of a reader, opened once in each process."""
    return open_store(Path(path))


@dataclass(frozen=True, kw_only=True)
class StoreReader:
    """Reads images of a store; the last part of a sample's path is its number. `digest` is the state of the store."""

    path: str
    digest: str
    variable: str

    def __call__(self, path: Path, card: Card) -> Chip:
        """One image, in dB. Raises BenchError naming it: other bands or size than the card's, a constant band."""
        stored = self.stored(int(path.name), card.signal)
        alone = "{band}" in self.variable
        signal = dataclasses.replace(card.signal, index=(), described=()) if alone else card.signal
        return chip_of(
            stored.values,
            dataclasses.replace(card, signal=signal),
            path,
            nodata=stored.nodata,
            descriptions=stored.descriptions,
            applied=stored.applied,
        )

    def stored(self, number: int, signal: Signal) -> Stored:
        """What the store holds of one sample, (bands, H, W), scaled as its variables say."""
        store = _held(self.path, self.digest)
        variables = band_variables(store, self.variable, signal.bands)
        kind = np.float64 if signal.converted else np.float32
        planes = [np.asarray(store.sample(variable.name, number)) for variable in variables]
        planes = [plane[None] if plane.ndim == 2 else _bands_first(plane, tuple(signal.size)) for plane in planes]
        nodata = tuple(dict.fromkeys(value for variable in variables for value in variable.nodata))
        values = np.concatenate(planes).astype(kind)
        names = [variable.name for variable in variables] if len(variables) > 1 else _band_names(store, variables[0])
        descriptions = tuple(names) if len(names) == len(values) else ("",) * len(values)
        scales = [variable.scale for variable in variables]
        if all(scale == (1, 0) for scale in scales):
            return Stored(values=values, nodata=nodata, descriptions=descriptions, synthetic=False)
        own = (signal.scale, signal.offset)
        if own != (1.0, 0.0) and any(scale != own for scale in scales):
            what = f"{store.path} states a scale and an offset of {scales[0]}, the card {own[0]:g} and {own[1]:g}"
            raise BenchError(what, "leave them out of the card")
        valid = np.isfinite(values)
        leave_out_fill(valid, values, signal, nodata)
        each = np.array(scales * (1 if len(scales) == len(values) else len(values)))[:, :, None, None]
        meant = (values.astype(np.float64) * each[:, 0] + each[:, 1]).astype(kind)
        meant[~valid] = np.nan
        return Stored(values=meant, nodata=(), descriptions=descriptions, synthetic=False, applied=True)


def _bands_first(values: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    """An image (bands, H, W) from one that may have its bands last."""
    return np.moveaxis(values, -1, 0) if values.shape[1:] != size and values.shape[:2] == size else values


def _band_names(store: Store, variable: Variable) -> list[str]:
    """What the coordinate of the bands calls them, nothing without one."""
    over = variable.dims[1] if len(variable.dims) == 4 else ""
    named = over in store.variables and store.variables[over].shape == variable.shape[1:2]
    return texts(store, over) if named else []


@dataclass(frozen=True, kw_only=True)
class StoreMaps:
    """Label maps or targets of the samples `numbers` of a store, row by row."""

    path: str
    digest: str
    numbers: tuple[int, ...]
    stated: Mapping[str, LabelFile]
    known: Mapping[str, Source]

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the label sources."""
        return tuple(self.stated)

    def has(self, row: int, source: str) -> bool:
        """Whether the store has a source, which it then has of every sample."""
        return source in self.stated

    def codes(self, row: int, source: str) -> Codes:
        """Labels (H, W) of a sample. Raises BenchError naming it: broken, values of no code."""
        return Codes.of(self._values(row, source), self.known[source], self._where(row, source))

    def targets(self, row: int, source: str) -> NDArray[np.float32]:
        """Targets (H, W) of a regression, NaN where there is none, as the variable's scale and fill have it."""
        store, stated = _held(self.path, self.digest), self.stated[source]
        values, variable = self._values(row, source), store.variable(self.stated[source].folder)
        found = without_values(values, (*stated.ignore, *variable.nodata))
        scale, offset = variable.scale
        return found if (scale, offset) == (1, 0) else (found * scale + offset).astype(np.float32)

    def _values(self, row: int, source: str) -> NDArray[Any]:
        if source not in self.stated:
            raise BenchError(f"{self.path} has no label source '{source}'", f"choose from {', '.join(self.stated)}")
        return np.asarray(_held(self.path, self.digest).sample(self.stated[source].folder, self.numbers[row]))

    def _where(self, row: int, source: str) -> str:
        return f"{self.path}: {self.stated[source].folder} of sample {self.numbers[row]}"
