"""One file to one array of backscatter with its validity mask; every fault names the file at the moment it is read."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from fgmae_bench.config.cards import Card, Signal
from fgmae_bench.data.synthetic import SYNTHETIC_TAG
from fgmae_bench.data.tiff import read_plain
from fgmae_bench.errors import BenchError
from fgmae_bench.views.chip import Chip

GDAL = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO"}  # no look at the folder for each file
logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what GDAL has to say is in the error that is raised
warnings.filterwarnings(
    "ignore", category=NotGeoreferencedWarning
)  # a chip without a place is no fault unless a split needs it


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
    try:
        with rasterio.Env(**GDAL), rasterio.open(path) as source:
            if source.driver != "GTiff":
                raise BenchError(f"{path} is {source.driver}, not TIFF", "replace the file")
            if source.count != len(card.signal.bands):
                raise BenchError(
                    f"{path} has {source.count} bands, {card.title} has {len(card.signal.bands)}", "replace the file"
                )
            if source.shape != tuple(card.signal.size):
                wanted = "x".join(map(str, card.signal.size))
                raise BenchError(
                    f"{path} is {source.shape[0]}x{source.shape[1]} pixels, {card.title} has {wanted}",
                    "replace the file",
                )
            if np.dtype(source.dtypes[0]).kind not in "fiu":
                raise BenchError(
                    f"{path} holds {source.dtypes[0]} values", "give detected backscatter, not complex samples"
                )
            db = source.read(out_dtype=np.float32)
            nodata = [value for value in source.nodatavals if value is not None]
            synthetic = SYNTHETIC_TAG in source.tags()
    except RasterioError as error:
        reason = (
            str(error.__cause__ or error)
            .replace(f"'{path}'", "it")
            .replace(str(path), "it")
            .replace("it not ", "it is not ")
        )
        raise BenchError(
            f"{path} cannot be read as a TIFF ({reason[:160]})", "replace the file, or verify the download"
        ) from error
    return db, nodata, synthetic


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
