"""One file to one array of backscatter with its validity mask; every fault names the file at the moment it is read."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # what a transformation of places raises
from rasterio.enums import MaskFlags
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from fgmae_bench.config.cards import Card, Signal
from fgmae_bench.data.synthetic import SYNTHETIC_TAG
from fgmae_bench.data.tiff import read_plain
from fgmae_bench.errors import BenchError
from fgmae_bench.views.chip import Chip

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF and BigTIFF
GDAL = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no look at the folder for each file, so no file beside it is read
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_GEOREF_SOURCES": "INTERNAL",
    "GDAL_MAX_BAND_COUNT": "4096",  # a band takes a kilobyte before any pixel is read
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": "{none}",
}
os.environ["PROJ_NETWORK"] = "OFF"  # a projection may name a grid that PROJ would download
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

    Raises BenchError naming the file, also for what GDAL cannot read while it is open.
    """
    _require_signature(path)
    try:
        with rasterio.Env(**GDAL), rasterio.open(Path(os.path.abspath(path)), driver="GTiff") as source:
            yield source
    except (RasterioError, CRSError, CPLE_BaseError, UnicodeDecodeError) as error:
        reason = str(error.__cause__ or error)
        for name in (f"'{os.path.abspath(path)}'", os.path.abspath(path), f"'{path}'", str(path)):
            reason = reason.replace(name, "it")
        reason = reason.replace("it not ", "it is not ")
        raise BenchError(f"{path} cannot be read as a TIFF ({reason[:160]})", TODO) from error


def _require_signature(path: Path) -> None:
    """Raise BenchError unless a file begins as a TIFF does; GDAL would take an address for a file."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(16)
    except OSError as error:
        raise BenchError(f"{path} cannot be read as a TIFF ({error.strerror})", TODO) from error
    if head[:4] not in SIGNATURES:
        begins = f"it begins with {head!r}" if head else "it is empty"
        raise BenchError(f"{path} cannot be read as a TIFF ({begins})", TODO)


def read_values(
    source: DatasetReader, path: Path, band: int | None = None, *, kinds: str, dtype: Any = None, declared: bool = False
) -> NDArray[Any]:
    """Values (C, H, W), or (H, W) of one band, as `dtype` or as they are stored.

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


def read_chip(path: Path, card: Card) -> Chip:
    """Read one image and hold it against its card.

    Raises BenchError naming the file: not a TIFF, truncated, wrong bands or size, no valid pixel, a constant band.
    """
    plain = read_plain(path)
    if plain is not None and plain.db.shape == (len(card.signal.bands), *card.signal.size):
        db, nodata, synthetic = plain.db, list(plain.nodata), SYNTHETIC_TAG.encode() in plain.metadata
    else:
        db, nodata, synthetic = _read_with_gdal(path, card)
    valid = valid_mask(db, card.signal, nodata)
    _refuse_empty(path, db, valid)
    return Chip(db=db, valid=None if valid.all() else valid, synthetic=synthetic)


def _read_with_gdal(path: Path, card: Card) -> tuple[NDArray[np.float32], list[float], bool]:
    """(pixels (2, H, W), declared nodata values, whether it is tagged as synthetic); errors as of `read_chip`."""
    with open_tiff(path) as source:
        if source.count != len(card.signal.bands):
            raise BenchError(
                f"{path} has {source.count} bands, {card.title} has {len(card.signal.bands)}", "replace the file"
            )
        if source.shape != tuple(card.signal.size):
            wanted = "x".join(map(str, card.signal.size))
            raise BenchError(
                f"{path} is {source.shape[0]}x{source.shape[1]} pixels, {card.title} has {wanted}", "replace the file"
            )
        db, nodata = read_measured(source, path, card.signal, declared=True)
        return db, nodata, SYNTHETIC_TAG in source.tags()


def read_measured(
    source: DatasetReader, path: Path, signal: Signal, *, declared: bool = False
) -> tuple[NDArray[np.float32], list[float]]:
    """(values (C, H, W) that the file means, declared nodata values): scale, offset and mask of the file are applied.

    Where a file has any of them, its invalid pixels become NaN: nodata values are those of the numbers as stored.
    Raises BenchError as `read_values`, and on a scale or offset that is not a finite number, or a scale of 0.
    """
    stored = read_values(source, path, kinds="fiu", dtype=np.float32, declared=declared)
    nodata = [value for value in source.nodatavals if value is not None]
    scales, offsets = (np.array(values, np.float64) for values in (source.scales, source.offsets))
    masked = any(MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags for flags in source.mask_flag_enums)
    if (scales == 1).all() and (offsets == 0).all() and not masked:
        return stored, nodata
    if not (np.isfinite(scales).all() and np.isfinite(offsets).all() and scales.all()):
        raise BenchError(f"{path} states a scale of {scales.tolist()} and an offset of {offsets.tolist()}", TODO)
    valid = valid_mask(stored, signal, nodata)
    if masked:
        valid &= source.dataset_mask() > 0
    values = (stored * scales[:, None, None] + offsets[:, None, None]).astype(np.float32)
    values[~valid] = np.nan
    return values, []


def valid_mask(db: NDArray[np.float32], signal: Signal, nodata: list[float] | None = None) -> NDArray[np.bool_]:
    """True (same shape) where a pixel is a measurement: finite, no declared nodata value, not in a run of exact zeros.

    A run is two or more zeros side by side or one above the other: one exact zero can be 0 dB, a run cannot.
    """
    valid = np.isfinite(db)
    for value in (*signal.nodata, *(nodata or ())):
        valid &= db != np.float32(value)
    zero = db == 0
    if zero.any():
        run = np.zeros_like(zero)
        across, down = zero[..., :, 1:] & zero[..., :, :-1], zero[..., 1:, :] & zero[..., :-1, :]
        run[..., :, 1:] |= across
        run[..., :, :-1] |= across
        run[..., 1:, :] |= down
        run[..., :-1, :] |= down
        valid &= ~run
    return valid


def _refuse_empty(path: Path, db: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
    for band in range(len(db)):
        values = db[band][valid[band]]
        if values.size == 0:
            raise BenchError(f"{path}: band {band + 1} has no valid pixel", "replace or remove the file")
        if values.min() == values.max():
            raise BenchError(f"{path}: band {band + 1} is constant ({values[0]:g})", "replace or remove the file")
