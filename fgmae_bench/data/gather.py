"""Backscatter images in any folder, card or no card: files of one band or more, and a file a polarisation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Signal
from fgmae_bench.config.contract import BANDS, POLARISATIONS
from fgmae_bench.data.files import IMAGES, folders_in, hidden, load_array
from fgmae_bench.data.raster import ground_resolution, open_tiff, read_stored
from fgmae_bench.data.signal import polarisation, valid_mask
from fgmae_bench.data.zarr_layout import StoreReader, band_variables, likely_images, sample_ids
from fgmae_bench.data.zarr_store import digest_of, is_store, open_store
from fgmae_bench.errors import BenchError
from fgmae_bench.views.chip import Chip

SINGLE = re.compile(rf"^(?P<stem>.*?)[_\-. ]?(?P<band>{'|'.join(POLARISATIONS)})$", re.IGNORECASE)
WITHIN = re.compile(rf"(?<![^_\-. ])(?P<band>{'|'.join(POLARISATIONS)})(?![^_\-. ])", re.IGNORECASE)
MOST_LISTED = 20_000  # entries of a folder that are looked at for their kind
MOST_CODES = 64  # different whole numbers that a label map may hold
# Ending of a file or folder that is not read -> (what it is, what to do).
CHIPS = "each chip as a TIFF with one band a polarisation, or as a NumPy array (bands, H, W)"
FOREIGN = {
    ".nc": ("NetCDF", f"open it with xarray (xarray.open_dataset); write samples as Zarr (to_zarr), or {CHIPS}"),
    ".zarr": (
        "a Zarr store",
        "join stores of one image each to one with a dimension of samples (xarray.concat, to_zarr)",
    ),
    ".h5": ("HDF5", f"open it with h5py and write {CHIPS}"),
    ".hdf5": ("HDF5", f"open it with h5py and write {CHIPS}"),
    ".safe": (
        "a Sentinel-1 product as ESA delivers it: digital numbers, neither calibrated nor terrain-corrected",
        "process it (SNAP, pyroSAR: orbit, calibration, terrain correction), then cut chips",
    ),
    ".dim": (
        "a product of SNAP (BEAM-DIMAP)",
        "export it from SNAP as GeoTIFF, then cut chips; bands named _db are dB",
    ),
    ".img": ("ENVI data, as in the .data folder of a SNAP product", "export it as GeoTIFF, then cut chips"),
    ".npz": ("archives of NumPy arrays", "write one .npy (bands, H, W) an image"),
    ".zip": ("an archive", "unpack it"),
    ".tar": ("an archive", "unpack it"),
    ".gz": ("compressed", "unpack it"),
    ".pkl": ("pickled objects, which can run code when they are read", "get the data in another format"),
    ".jp2": ("JPEG 2000, in which Sentinel-2 is delivered", "give Sentinel-1 images"),
}


class LooksLikeLabels(BenchError):
    """A file of one band of few whole numbers."""


@dataclass(frozen=True)
class Found:
    """One image: its name relative to the folder, its group (the folder above it), and its file, or one file for each
    of `bands`; of a Zarr store its number there.
    """

    name: str
    group: str
    files: tuple[Path, ...]
    bands: tuple[str, ...] = ()
    number: int | None = None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a file without a card says: `chip` holds the bands looked at, in the file's own units.

    `bands` are their polarisations, empty where nothing names them; `places` which of the file's bands they are.
    """

    chip: Chip
    bands: tuple[str, ...]
    places: tuple[int, ...]
    descriptions: tuple[str, ...]
    dtype: str
    nodata: tuple[float, ...]
    metres: tuple[float, float] | None  # a pixel on the ground, across and down


def find_images(root: Path) -> tuple[list[Found], list[str]]:
    """(images below `root` in path order, lines on files whose partner of another polarisation is missing). Where it is
    a Zarr store, or holds one and nothing else that is read, its samples.
    """
    store = store_in(root)
    if store is not None:
        return _in_store(store), []
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGES and p.is_file() and not hidden(p.name))
    images: list[Found] = []
    pairs: dict[tuple[Path, str], dict[str, Path]] = {}
    inner: dict[tuple[Path, str], dict[str, Path]] = {}  # with the band in the middle of the name
    for path in files:
        match, within = SINGLE.match(path.stem), WITHIN.findall(path.stem)
        if match:
            pairs.setdefault((path.parent, match["stem"]), {})[match["band"].upper()] = path
        elif len(within) == 1:
            rest = WITHIN.sub("", path.stem).replace("__", "_").strip("_-. ")
            inner.setdefault((path.parent, rest), {})[within[0].upper()] = path
        else:
            images.append(Found(path.relative_to(root).as_posix(), path.parent.name, (path,)))
    together = any(len(held) > 1 for held in inner.values())
    for key, held in inner.items():
        if together:
            pairs[key] = held
        else:  # a word of the name of an image that is whole
            images += [Found(path.relative_to(root).as_posix(), path.parent.name, (path,)) for path in held.values()]
    usual = _usual(frozenset(held) for held in pairs.values())
    stems = Counter(folder for folder, _ in pairs)
    skipped: list[str] = []
    for (folder, stem), held in pairs.items():
        if set(held) != set(usual):
            lacking = ", ".join(band for band in POLARISATIONS if band in usual and band not in held) or "nothing"
            skipped += [f"{path.relative_to(root)}: its partner band is missing ({lacking})" for path in held.values()]
            continue
        bands = tuple(band for band in POLARISATIONS if band in held)
        name = (folder / (stem or folder.name)).relative_to(root).as_posix() if folder != root else stem or folder.name
        alone = stems[folder] == 1 and folder != root  # a folder an image
        images.append(Found(name, folder.parent.name if alone else folder.name, tuple(held[b] for b in bands), bands))
    return sorted(images, key=lambda image: image.name), skipped


def store_in(root: Path) -> Path | None:
    """The Zarr store that a folder is, or the only one in it besides tables."""
    if is_store(root):
        return root
    names = folders_in(root) if root.is_dir() else []
    return root / names[0] if len(names) == 1 and names[0].endswith(".zarr") and is_store(root / names[0]) else None


def _in_store(path: Path) -> list[Found]:
    store = open_store(path)
    pattern, bands = likely_images(store)
    count = band_variables(store, pattern, bands)[0].shape[0]
    names = enumerate(sample_ids(store, "", count))
    return [Found(name, path.name, (path,), number=number) for number, name in names]


def _look_into_store(found: Found) -> Seen:
    """One sample of a Zarr store."""
    path = found.files[0]
    store = open_store(path)
    pattern, named = likely_images(store)
    first = band_variables(store, pattern, named)[0]
    size = first.shape[-2:] if len(first.shape) == 3 or first.shape[-1] > 4 else first.shape[1:3]
    reader = StoreReader(path=str(path), digest=digest_of(path), variable=pattern)
    stored = reader.stored(found.number or 0, replace(_plain(size), bands=named or BANDS))
    places = band_places_of(stored.descriptions)
    db = np.asarray(stored.values[list(places)], np.float32)
    valid = valid_mask(db, _plain(size), stored.nodata)
    if not valid.any(axis=(1, 2)).all():
        raise BenchError(f"{path}: a band of {found.name} has no valid pixel", "replace or remove it")
    return Seen(
        chip=Chip(db=db, valid=None if valid.all() else valid, synthetic=False),
        bands=tuple(filter(None, (polarisation(stored.descriptions[place]) for place in places))),
        places=places,
        descriptions=stored.descriptions,
        dtype=str(first.dtype),
        nodata=stored.nodata,
        metres=None,
    )


def _usual(kinds: Iterable[frozenset[str]]) -> frozenset[str]:
    """The bands that most images have; of two that are as frequent, the more."""
    counts = Counter(kinds)
    return max(counts, key=lambda kind: (counts[kind], len(kind)), default=frozenset())


def foreign_kind(path: Path) -> tuple[str, str] | None:
    """(what a file or folder is, what to do) where it is of a format that is not read."""
    return FOREIGN.get(path.suffix.lower())


def foreign_kinds(root: Path) -> str:
    """A sentence on what a folder without images holds in their place, empty where that is not known."""
    known = [path.suffix.lower() for path in sorted(root.rglob("*"))[:MOST_LISTED] if foreign_kind(path)]
    if not known:
        return ""
    ending, count = Counter(known).most_common(1)[0]
    what, todo = FOREIGN[ending]
    return f"{count} of its entries end in {ending}, which is {what}; {todo}"


def read_image(found: Found) -> Chip:
    """The pixels of an image of any size, as `look` sees them."""
    return look(found).chip


def look(found: Found) -> Seen:
    """Read an image of any size without a card. Raises BenchError naming a file that is none: label maps, pictures."""
    if found.number is not None:
        return _look_into_store(found)
    parts = [_look(path) for path in found.files]
    if len({part.chip.db.shape[1:] for part in parts}) != 1 or (
        len(parts) > 1 and any(len(p.chip.db) > 1 for p in parts)
    ):
        raise BenchError(
            f"{found.name}: {' and '.join(found.bands)} differ in size",
            "resample them to one grid, or take both out of the data",
        )
    db = np.concatenate([part.chip.db for part in parts])
    valid = np.concatenate([_mask(part.chip) for part in parts])
    if not valid.any(axis=(1, 2)).all():
        raise BenchError(f"{found.name}: a band has no valid pixel", "replace or remove it")
    chip = Chip(db=db, valid=None if valid.all() else valid, synthetic=any(part.chip.synthetic for part in parts))
    nodata = tuple({f"{value:g}": value for part in parts for value in part.nodata}.values())
    return replace(parts[0], chip=chip, bands=found.bands or parts[0].bands, nodata=nodata)


def _mask(chip: Chip) -> NDArray[np.bool_]:
    return np.ones(chip.db.shape, bool) if chip.valid is None else chip.valid


def _look(path: Path) -> Seen:
    """One file. Of more than two bands those that are described as polarisations are looked at, else the first two."""
    if path.suffix.lower() == ".npy":
        return _look_at_array(path)
    with open_tiff(path) as source:
        descriptions = tuple(text or "" for text in source.descriptions)
        places = band_places_of(descriptions)
        stored = read_stored(source, path, _plain(source.shape), list(places))
        dtype, metres = source.dtypes[places[0]], ground_resolution(source)
        if source.count in (3, 4) and dtype == "uint8":
            _refuse_coloured_map(path, source.read((1, 2, 3)))
    _refuse_label_map(path, dtype, stored.values)
    valid = valid_mask(stored.values, _plain(stored.values.shape[1:]), stored.nodata)
    return Seen(
        chip=Chip(db=stored.values, valid=valid, synthetic=stored.synthetic),
        bands=tuple(filter(None, (polarisation(descriptions[place]) for place in places))),
        places=places,
        descriptions=descriptions,
        dtype=dtype,
        nodata=stored.nodata,
        metres=metres,
    )


def band_places_of(descriptions: tuple[str, ...]) -> tuple[int, ...]:
    """Which bands (from 0) of a file hold backscatter: those described as polarisations, else the first two."""
    named = {polarisation(text): place for place, text in reversed(list(enumerate(descriptions))) if polarisation(text)}
    return tuple(sorted(named.values())) or tuple(range(min(2, len(descriptions))))


def _look_at_array(path: Path) -> Seen:
    held = load_array(path)
    values = held[None] if held.ndim == 2 else held
    if values.ndim == 3 and values.shape[-1] <= 4 < values.shape[0]:
        values = np.moveaxis(values, -1, 0)
    if values.ndim != 3 or min(values.shape[1:]) < 2:
        shape = "x".join(map(str, held.shape))
        raise BenchError(f"{path} is an array of {shape}", "give one (bands, H, W) an image")
    _refuse_label_map(path, str(held.dtype), values)
    places = tuple(range(min(2, len(values))))
    db = np.array(values[: len(places)], np.float32)
    chip = Chip(db=db, valid=valid_mask(db, _plain(db.shape[1:])), synthetic=False)
    texts = ("",) * len(values)
    return Seen(chip=chip, bands=(), places=places, descriptions=texts, dtype=str(held.dtype), nodata=(), metres=None)


def _refuse_label_map(path: Path, dtype: str, values: NDArray[Any]) -> None:
    """Raise LooksLikeLabels on one band of few whole numbers; of real type they have at most one negative among them,
    since whole dB have many.
    """
    if len(values) != 1:
        return
    kind = np.dtype(dtype).kind
    found = np.unique(values[np.isfinite(values)]) if kind == "f" else np.unique(values)
    whole = 2 <= len(found) <= MOST_CODES and (found == np.round(found)).all() and (found < 0).sum() <= 1
    if (kind in "iub" and len(found) <= MOST_CODES) or (kind == "f" and whole):
        raise LooksLikeLabels(
            f"{path} looks like a label map: {dtype} with few values", "give the folder of the images"
        )


def _refuse_coloured_map(path: Path, values: NDArray[np.uint8]) -> None:
    """Raise LooksLikeLabels on bands (3, H, W) of few colours."""
    if 2 <= len(np.unique(colours_of(values))) <= MOST_CODES:
        raise LooksLikeLabels(f"{path} looks like a label map: few colours", "give the folder of the images")


def colours_of(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Red, green and blue (3, H, W) as one number a pixel, red x 65536 + green x 256 + blue."""
    red, green, blue = values.astype(np.int64)
    found: NDArray[np.int64] = (red << 16) + (green << 8) + blue
    return found


def _plain(size: tuple[int, ...]) -> Signal:
    """What is taken for granted of files without a card: numbers as they are, no fill but what they declare."""
    return Signal(bands=BANDS, units="dB", calibration="unstated", size=size, dtype="float32")
