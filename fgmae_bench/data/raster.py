"""One file to one array of backscatter with its validity mask; every fault names the file at the moment it is read."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # what a transformation of places raises
from rasterio.enums import MaskFlags
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.warp import transform

from fgmae_bench.config.cards import Card, Signal
from fgmae_bench.data.signal import band_places, chip_of, leave_out_fill, require_size, valid_mask
from fgmae_bench.data.synthetic import SYNTHETIC_TAG
from fgmae_bench.data.tiff import read_plain
from fgmae_bench.errors import BenchError
from fgmae_bench.views.chip import Chip

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF and BigTIFF
# GDAL's driver for files of an ending, and what these begin with; all others are TIFF.
DRIVERS = {".png": ("PNG", (b"\x89PNG",))}
GDAL = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no look at the folder for each file, so no file next to it is read
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_GEOREF_SOURCES": "INTERNAL",
    "GDAL_MAX_BAND_COUNT": "4096",  # a band takes a kilobyte before any pixel is read
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": "{none}",
}
os.environ["PROJ_NETWORK"] = "OFF"  # a projection may name a grid that PROJ would download
WGS84_AXIS, WGS84_E2 = 6_378_137.0, 0.00669437999014
SINGLE = ("float32", "int8", "uint8", "int16", "uint16")  # types whose numbers float32 holds exactly
MEMORY_BYTES, MEMORY_TIMES = 64 << 20, 16  # what an image may take: the larger of this and so many times its file
TODO = "replace the file, or verify the download"
logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what GDAL has to say is in the error that is raised
warnings.filterwarnings(
    "ignore", category=NotGeoreferencedWarning
)  # a chip without a place is not a fault unless a split needs it


def _skip_undecodable(unraisable: Any, shown: Any = sys.unraisablehook) -> None:
    """Say nothing of GDAL's messages that quote bytes of a file: rasterio takes them for UTF-8 inside a callback."""
    if not isinstance(unraisable.exc_value, UnicodeDecodeError):
        shown(unraisable)


sys.unraisablehook = _skip_undecodable


@contextlib.contextmanager
def open_tiff(path: Path) -> Iterator[DatasetReader]:
    """A TIFF file opened by GDAL's GTiff driver alone: its content makes GDAL open no other file and no address.

    A file whose name ends in `.png` is opened by the PNG driver alone. Raises BenchError naming the file, also for what
    GDAL cannot read while it is open.
    """
    driver, signatures = DRIVERS.get(path.suffix.lower(), ("GTiff", SIGNATURES))
    kind = "TIFF" if driver == "GTiff" else driver
    _require_signature(path, kind, signatures)
    try:
        with rasterio.Env(**GDAL), rasterio.open(Path(os.path.abspath(path)), driver=driver) as source:
            yield source
    except (RasterioError, CRSError, CPLE_BaseError, UnicodeDecodeError) as error:
        reason = str(error.__cause__ or error)
        for name in (f"'{os.path.abspath(path)}'", os.path.abspath(path), f"'{path}'", str(path)):
            reason = reason.replace(name, "it")
        reason = reason.replace("it not ", "it is not ")
        raise BenchError(f"{path} cannot be read as a {kind} ({reason[:160]})", TODO) from error


def _require_signature(path: Path, kind: str, signatures: tuple[bytes, ...]) -> None:
    """Raise BenchError unless a file begins as its kind does; GDAL would take an address for a file."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(16)
    except OSError as error:
        raise BenchError(f"{path} cannot be read as a {kind} ({error.strerror})", TODO) from error
    if head[:4] not in signatures:
        begins = f"it begins with {head!r}" if head else "it is empty"
        raise BenchError(f"{path} cannot be read as a {kind} ({begins})", TODO)


def read_values(
    source: DatasetReader,
    path: Path,
    band: int | list[int] | None = None,
    *,
    kinds: str,
    dtype: Any = None,
    declared: bool = False,
) -> NDArray[Any]:
    """Values (C, H, W) of all or some bands, or (H, W) of one, as `dtype` or as they are stored.

    `declared`: the image is of the size that its card states, and may take what that size takes. Raises BenchError
    where values are of none of the numpy `kinds`, or the blocks of the file take memory out of proportion.
    """
    stored = source.dtypes[0]
    # `complex_int16`, of products that are not detected, is not a name that numpy knows.
    if stored.startswith("complex") or np.dtype(stored).kind not in kinds:
        todo = "label maps hold whole numbers: replace the file" if kinds == "iu" else _DETECTED
        raise BenchError(f"{path} holds {stored} values", todo)
    _require_bounded(source, path, declared=declared)
    values: NDArray[Any] = source.read(band, out_dtype=dtype)
    return values


_DETECTED = "give detected backscatter, not complex samples"


def _require_bounded(source: DatasetReader, path: Path, *, declared: bool) -> None:
    """Raise BenchError where decoding takes more than the larger of MEMORY_BYTES and MEMORY_TIMES the file.

    GDAL decodes whole blocks, which may be larger than the image, and keeps them.
    """
    (height, width), size = source.shape, np.dtype(source.dtypes[0]).itemsize
    held = 0
    for rows, columns in source.block_shapes:
        held += -(-height // rows) * rows * -(-width // columns) * columns * size
    image = height * width * source.count * max(size, 4)
    most = max(MEMORY_BYTES, MEMORY_TIMES * os.path.getsize(path), 4 * image if declared else 0)
    if held + image > most:
        what = f"{path} would take {(held + image) >> 20} MiB of memory for {width}x{height} pixels"
        raise BenchError(what, f"{most >> 20} MiB are allowed for a file of its size: write it with smaller blocks")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a file holds: `values` (bands, H, W), values that it declares as no measurement, descriptions of its bands.

    `applied`: a scale, offset or mask of the file was applied, and invalid pixels are NaN.
    """

    values: NDArray[Any]
    nodata: tuple[float, ...]
    descriptions: tuple[str, ...]
    synthetic: bool
    applied: bool = False


def read_chip(path: Path, card: Card) -> Chip:
    """Read one image, hold it against its card and convert it to dB.

    A band without a valid pixel is not an error: `Chip.invalid_fraction` is 1 then. Raises BenchError naming the file:
    not a TIFF, truncated, wrong bands or size, a constant band.
    """
    plain = read_plain(path)
    if plain is not None:
        usual = len(plain.db) == len(card.signal.bands) and not card.signal.described
        stored = Stored(
            values=plain.db,
            nodata=plain.nodata,
            descriptions=() if usual else plain.descriptions(),
            synthetic=SYNTHETIC_TAG.encode() in plain.metadata,
        )
        return _chip(stored, card, path)
    with open_tiff(path) as source:
        places = band_places(card, source.count, source.descriptions, path)
        require_size(card, source.shape, path)
        stored = read_stored(source, path, card.signal, places, declared=True)
    alone = dataclasses.replace(card, signal=dataclasses.replace(card.signal, index=(), described=()))
    return _chip(stored, alone, path)


def _chip(stored: Stored, card: Card, path: Path) -> Chip:
    return chip_of(
        stored.values,
        card,
        path,
        nodata=stored.nodata,
        descriptions=stored.descriptions,
        synthetic=stored.synthetic,
        applied=stored.applied,
    )


def read_stored(
    source: DatasetReader, path: Path, signal: Signal, places: list[int] | None = None, *, declared: bool = False
) -> Stored:
    """The bands `places` (from 0) of a file, all by default, as it means them: its scale, offset and mask are applied.

    Where a file has any of them, its invalid pixels become NaN: nodata values are those of the numbers as stored.
    Raises BenchError as `read_values`, on a scale or offset that is not a finite number, or a scale of 0, and where
    file and card state different ones.
    """
    places = list(range(source.count)) if places is None else places
    kind = np.float64 if signal.converted else np.float32
    bands = [place + 1 for place in places]
    exact = kind if source.dtypes[0] not in SINGLE else np.float32  # half the memory where nothing is lost by it
    values = read_values(source, path, bands, kinds="fiu", dtype=exact, declared=declared)
    nodata = tuple(float(value) for value in source.nodatavals if value is not None)
    descriptions = tuple(source.descriptions[place] or "" for place in places)
    synthetic = SYNTHETIC_TAG in source.tags()
    scales, offsets = (np.array([held[place] for place in places]) for held in (source.scales, source.offsets))
    masked = any(MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags for flags in source.mask_flag_enums)
    plain = bool((scales == 1).all() and (offsets == 0).all())
    if plain and not masked:
        return Stored(values=values, nodata=nodata, descriptions=descriptions, synthetic=synthetic)
    if not (np.isfinite(scales).all() and np.isfinite(offsets).all() and scales.all()):
        raise BenchError(f"{path} states a scale of {scales.tolist()} and an offset of {offsets.tolist()}", TODO)
    own = (signal.scale, signal.offset)
    if plain:
        scales, offsets = np.full(len(places), own[0]), np.full(len(places), own[1])
    elif own != (1.0, 0.0) and ((scales != own[0]).any() or (offsets != own[1]).any()):
        stated = f"a scale of {scales.tolist()} and an offset of {offsets.tolist()}"
        raise BenchError(f"{path} states {stated}, the card {own[0]:g} and {own[1]:g}", "leave them out of the card")
    if signal.converted:
        valid = np.isfinite(values)
        leave_out_fill(valid, values, signal, nodata)
    else:
        valid = valid_mask(values, signal, nodata)
    if masked:
        valid &= source.dataset_mask() > 0
    meant = (values * scales[:, None, None] + offsets[:, None, None]).astype(kind)
    meant[~valid] = np.nan
    return Stored(values=meant, nodata=(), descriptions=descriptions, synthetic=synthetic, applied=True)


def band_descriptions(path: Path) -> tuple[str, ...]:
    """What a TIFF file calls each of its bands, empty where it says nothing. Raises BenchError as `open_tiff`."""
    plain = read_plain(path)
    if plain is not None:
        return plain.descriptions()
    with open_tiff(path) as source:
        return tuple(text or "" for text in source.descriptions)


def ground_resolution(source: DatasetReader) -> tuple[float, float] | None:
    """Metres on the ground that a pixel in the middle of an image is (across, down); None of a file without a place.

    Degrees shrink with the cosine of the latitude, and so do the metres of Web Mercator. On the WGS84 ellipsoid, by its
    radii of curvature in the meridian and across it.
    """
    if source.crs is None or source.transform.is_identity:
        return None
    column, row = source.width / 2, source.height / 2
    places = [source.transform @ place for place in ((column, row), (column + 1, row), (column, row + 1))]
    lon, lat = transform(source.crs, "EPSG:4326", *zip(*places, strict=True))
    if not np.isfinite((*lon, *lat)).all():
        return None
    sine, cosine = np.sin(np.radians(lat[0])), np.cos(np.radians(lat[0]))
    across = WGS84_AXIS / np.sqrt(1 - WGS84_E2 * sine**2)
    along = across * (1 - WGS84_E2) / (1 - WGS84_E2 * sine**2)
    steps = [
        np.hypot(across * cosine * np.radians(lon[n] - lon[0]), along * np.radians(lat[n] - lat[0])) for n in (1, 2)
    ]
    return float(steps[0]), float(steps[1])
