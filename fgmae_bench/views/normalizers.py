"""Normalisers: backscatter in dB to the range a backbone was trained on, per image, ignoring invalid pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.contract import InputContract
from fgmae_bench.errors import unknown

Images = NDArray[np.float32]  # (B, 2, H, W) dB, bands in the contract's order
Valid = NDArray[np.bool_] | None  # (B, 2, H, W), None when every pixel is valid
QUANTILES = (0.01, 0.99)


def row_quantiles(values: NDArray[np.float32], quantiles: tuple[float, ...]) -> NDArray[np.float32]:
    """Quantiles (R, Q) of each row of `values` (R, n), linear interpolation, bit-identical to `np.quantile` row by row.

    One vectorised sort of all rows replaces a call of `np.quantile` for each.
    """
    last = values.shape[1] - 1
    ordered = np.sort(values, axis=1)
    result = np.empty((len(values), len(quantiles)), np.float32)
    for i, quantile in enumerate(quantiles):
        below = math.floor(last * quantile)
        between = np.full(len(values), last * quantile - below)
        result[:, i] = _interpolated(ordered[:, below], ordered[:, min(below + 1, last)], between)
    return result


def _interpolated(low: NDArray[np.float32], high: NDArray[np.float32], t: NDArray[np.float64]) -> NDArray[np.float32]:
    """Values (R,) at the shares `t` between `low` and `high`, in numpy 2's order of operations for float32: it counts
    from the nearer of the two, on which the last bit depends.
    """
    step = high - low
    near = low + step * t.astype(np.float32)
    far = high - step * (1 - t).astype(np.float32)
    return np.where(t >= 0.5, far, near)


def clip_jointly(images: Images, valid: Valid) -> Images:
    """Each image clipped to its own [1 %, 99 %] quantiles over both bands."""
    flat = images.reshape(len(images), -1)
    if valid is None:
        limits = row_quantiles(flat, QUANTILES)
    else:
        kept = valid.reshape(flat.shape)
        # rows keep different numbers of pixels, so they are sorted one by one
        limits = np.zeros((len(flat), len(QUANTILES)), np.float32)
        for limit, row, keep in zip(limits, flat, kept, strict=True):
            if keep.any():
                limit[:] = row_quantiles(row[keep][None], QUANTILES)[0]
    limits = limits[:, :, None, None, None]
    return np.clip(images, limits[:, 0], limits[:, 1])


@lru_cache(maxsize=16)
def _window(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lower end and width (C, 1, 1) of m - 2s .. m + 2s, each rounded to float32 once, not to be written to."""
    ends = [(m - 2 * s, m + 2 * s) for m, s in zip(mean, std, strict=True)]
    low, width = np.array([(low, high - low) for low, high in ends], np.float32).T[:, :, None, None]
    return low, width


def _to_bytes(images: Images, contract: InputContract) -> NDArray[np.uint8]:
    """(x - (m - 2s)) / (4s) x 255, clipped to [0, 255], truncated to uint8: as the transfer code does."""
    low, width = _window(contract.mean, contract.std)
    # in place from here on: this is the largest array of a view
    scaled = images - low
    scaled /= width
    scaled *= np.float32(255.0)
    with np.errstate(invalid="ignore"):  # NaN is under the mask and is filled by the caller
        return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)


def limit_levels(images: Images, levels: NDArray[np.uint8], valid: Valid, contract: InputContract) -> NDArray[np.uint8]:
    """What `_to_bytes` makes of each band's quantiles (B, 2, Q), by counting its `levels` (B, 2, H, W): no values are
    sorted.

    A quantile is between the values of two neighbouring ranks. Where both are of one level, so is the quantile; else
    the first is the largest value of its level and the second the smallest of its own.
    """
    batch, bands = images.shape[:2]
    planes, values = levels.reshape(batch * bands, -1), images.reshape(batch * bands, -1)
    masks = None if valid is None else valid.reshape(planes.shape)
    below = _counts(planes, masks).cumsum(1)  # (R, 256), pixels up to each level
    last = np.maximum(below[:, -1] - 1, 0)
    found = np.empty((len(planes), len(QUANTILES)), np.uint8)
    for i, quantile in enumerate(QUANTILES):
        position = last * quantile
        rank = np.floor(position).astype(np.int64)
        lower, upper = ((below <= ranks[:, None]).sum(1) for ranks in (rank, np.minimum(rank + 1, last)))
        found[:, i] = np.minimum(lower, 255)
        rows = np.flatnonzero((lower != upper) & (last > 0))
        if not len(rows):
            continue
        ends = np.empty((2, len(rows)), np.float32)
        for column, row in enumerate(rows):
            mask = None if masks is None else masks[row]
            ends[0, column] = _ends_of(values[row], planes[row], lower[row], mask)[1]
            ends[1, column] = _ends_of(values[row], planes[row], upper[row], mask)[0]
        # in the band's own place, so that its window applies
        limits = np.zeros((len(rows), bands, 1, 1), np.float32)
        limits[np.arange(len(rows)), rows % bands, 0, 0] = _interpolated(ends[0], ends[1], (position - rank)[rows])
        found[rows, i] = _to_bytes(limits, contract)[np.arange(len(rows)), rows % bands, 0, 0]
    return found.reshape(batch, bands, len(QUANTILES))


def _counts(planes: NDArray[np.uint8], masks: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    """How many valid pixels of each row (R, n) have each level (R, 256)."""
    counts = np.empty((len(planes), 256), np.int64)
    for row, plane in enumerate(planes):
        mask = None if masks is None else masks[row].view(np.uint8)
        counts[row] = cv2.calcHist([plane], [0], mask, [256], [0, 256]).ravel()
    return counts


def _ends_of(
    values: NDArray[np.float32], plane: NDArray[np.uint8], level: int, mask: NDArray[np.bool_] | None
) -> tuple[float, float]:
    """The smallest and the largest of the valid values of a row that are of one level."""
    of_it = plane == level
    if mask is not None:
        of_it &= mask
    return cv2.minMaxLoc(values, of_it.view(np.uint8))[:2]


def fgmae(images: Images, valid: Valid, contract: InputContract) -> NDArray[np.uint8]:
    """The published input of FGMAE's transfer code: quantile clip per band, then eight bits. Source: zhu-xlab/FGMAE.

    The levels are clipped in place of the values: `_to_bytes` is monotone, rounding too, so the bytes are the same.
    """
    levels = _to_bytes(images, contract)
    limits = limit_levels(images, levels, valid, contract)[..., None, None]
    np.clip(levels, limits[:, :, 0], limits[:, :, 1], out=levels)
    return _filled(levels, valid, 127)


def fgmae_joint(images: Images, valid: Valid, contract: InputContract) -> NDArray[np.uint8]:
    """As `fgmae` with one clip shared by both bands, as in FGMAE's pre-training."""
    return _filled(_to_bytes(clip_jointly(images, valid), contract), valid, 127)


def zscore(images: Images, valid: Valid, contract: InputContract) -> Images:
    """(x - mean) / std per band, nothing clipped."""
    # (1, 2, 1, 1), to broadcast over images
    mean, std = (np.array(v, np.float32)[None, :, None, None] for v in (contract.mean, contract.std))
    return _filled((images - mean) / std, valid, 0.0)


def two_sigma(images: Images, valid: Valid, contract: InputContract) -> Images:
    """(x - (mean - 2 std)) / (4 std) per band, clipped to [0, 1]: a fixed window, the same for every image."""
    low, width = _window(contract.mean, contract.std)
    return _filled(np.clip((images - low) / width, 0, 1), valid, 0.5)


def two_sigma_open(images: Images, valid: Valid, contract: InputContract) -> Images:
    """As `two_sigma` without the clip: Galileo's and OlmoEarth's input."""
    low, width = _window(contract.mean, contract.std)
    return _filled((images - low) / width, valid, 0.5)


def eight_bit(images: Images, valid: Valid, contract: InputContract) -> NDArray[np.uint8]:
    """As `fgmae` without the quantile clip: the mean +- 2 deviations in eight bits that SoftCon and DeCUR saw."""
    return _filled(_to_bytes(images, contract), valid, 127)


def clip25(images: Images, valid: Valid, contract: InputContract) -> Images:
    """Clip to [-25, 0] dB, then x / 25 + 1: the DFC2020 baseline's input; saturates a fifth of VH, kept for parity."""
    mean = np.array(contract.mean, np.float32)[None, :, None, None]
    return _filled(
        np.clip(images, -25, 0) / np.float32(25) + np.float32(1),
        valid,
        np.clip(mean, -25, 0) / np.float32(25) + np.float32(1),
    )


def db(images: Images, valid: Valid, contract: InputContract) -> Images:
    """Plain dB, invalid pixels as NaN: for statistics, not for networks."""
    return _filled(images.copy(), valid, np.nan)


def decibels(images: Images, valid: Valid, contract: InputContract) -> Images:
    """Plain dB with invalid pixels at the band mean: for networks whose publishers normalise nothing."""
    return _filled(images.copy(), valid, np.array(contract.mean, np.float32)[None, :, None, None])


def croma(images: Images, valid: Valid, contract: InputContract) -> Images:
    """Mean +- 2 deviations of each image's own valid pixels, by band, to [0, 1]: CROMA's input (README of
    antofuller/CROMA).

    There the statistics are those of a batch; here those of the image, so that no image changes another's features. A
    band without contrast becomes 0.5, as do invalid pixels.
    """
    kept = np.isfinite(images) if valid is None else valid
    counts = np.maximum(kept.sum((2, 3), keepdims=True), 1)
    mean = np.where(kept, images, 0).sum((2, 3), keepdims=True, dtype=np.float64) / counts
    # two passes in float64: the mean of squares less the square of the mean would cancel
    squares = np.square(np.where(kept, images - mean, 0)).sum((2, 3), keepdims=True, dtype=np.float64)
    reach = 4 * np.sqrt(squares / counts)
    scaled = np.divide(images - mean, reach, out=np.zeros(images.shape, np.float64), where=kept & (reach > 0))
    return _filled(np.clip(scaled + 0.5, 0, 1).astype(np.float32), valid, 0.5)


def dn_255(images: Images, valid: Valid, contract: InputContract) -> Images:
    """Digital numbers / 255, clipped to [0, 1]: Satlas's input, which is not dB."""
    return _filled(np.clip(images / np.float32(255), 0, 1), valid, 0.0)


def croma_batch(images: Images, valid: Valid, contract: InputContract) -> Images:
    """Mean +- 2 deviations of a batch's valid pixels, by band, to [0, 1]; the batch's statistics stand in the contract.

    A batch is a run of images in the data's own order (`data.statistics.by_runs`): no device and no split changes it.
    """
    return two_sigma(images, valid, contract)


FLOOD_S1_MEAN, FLOOD_S1_STD = (0.0981, 0.0253), (0.0430, 0.0174)  # power, of Copernicus-Bench's configuration
KURO_SIWO_MEAN, KURO_SIWO_STD = (0.0953, 0.0264), (0.0427, 0.0215)  # power, of data_config.json of KuroSiwo
MOST_POWER = 0.15
SEN1FLOODS11_MEAN, SEN1FLOODS11_STD = (0.6851, 0.5235), (0.0820, 0.1102)  # of [0, 1] for -50 to 1 dB


def _clamped_power(images: Images, valid: Valid, mean: tuple[float, ...], std: tuple[float, ...]) -> Images:
    """dB as linear power, clamped to [0, .15], invalid pixels .15, then z-scores of VV and VH in power."""
    power = np.clip(np.power(10.0, images / 10.0, dtype=np.float64), 0, MOST_POWER)
    power = np.where(np.isfinite(images) if valid is None else valid & np.isfinite(images), power, MOST_POWER)
    centre, spread = (np.array(values[: images.shape[1]])[None, :, None, None] for values in (mean, std))
    return ((power - centre) / spread).astype(np.float32)


def kuro_siwo(images: Images, valid: Valid, contract: InputContract) -> Images:
    """Kuro Siwo's own input: clamp and fill, its means and deviations. Source: Orion-AI-Lab/KuroSiwo, Dataset.py."""
    return _clamped_power(images, valid, KURO_SIWO_MEAN, KURO_SIWO_STD)


def flood_s1(images: Images, valid: Valid, contract: InputContract) -> Images:
    """The later image of Copernicus-Bench's Flood-S1 as published: its deviations are its means."""
    return _clamped_power(images, valid, FLOOD_S1_MEAN, FLOOD_S1_MEAN)


def flood_s1_corrected(images: Images, valid: Valid, contract: InputContract) -> Images:
    """The same with deviations that are deviations; the earlier image of the published protocol."""
    return _clamped_power(images, valid, FLOOD_S1_MEAN, FLOOD_S1_STD)


def sen1floods11(images: Images, valid: Valid, contract: InputContract) -> Images:
    """Sen1Floods11's own input: invalid pixels 0 dB, clip to [-50, 1] dB, to [0, 1], z-scores (its Train.ipynb)."""
    seen = np.where(np.isfinite(images) if valid is None else valid & np.isfinite(images), images, 0)
    unit = (np.clip(seen, -50, 1) + 50) / 51
    stated = (SEN1FLOODS11_MEAN, SEN1FLOODS11_STD)
    mean, std = (np.array(values[: images.shape[1]])[None, :, None, None] for values in stated)
    return ((unit - mean) / std).astype(np.float32)


NORMALIZERS: dict[str, Callable[[Images, Valid, InputContract], NDArray[np.uint8] | Images]] = {
    "fgmae": fgmae,
    "fgmae_joint": fgmae_joint,
    "zscore": zscore,
    "two_sigma": two_sigma,
    "two_sigma_open": two_sigma_open,
    "eight_bit": eight_bit,
    "zscore_of_data": zscore,
    "dn_255": dn_255,
    "croma_batch": croma_batch,
    "clip25": clip25,
    "decibels": decibels,
    "croma": croma,
    "db": db,
    "kuro_siwo": kuro_siwo,
    "flood_s1": flood_s1,
    "flood_s1_corrected": flood_s1_corrected,
    "sen1floods11": sen1floods11,
}


# Normalisers whose means and deviations are those of the training data; the others' are part of their definition.
NEEDS_STATISTICS = ("zscore", "two_sigma", "two_sigma_open", "eight_bit")
# Normalisers whose means and deviations are always those of the data that is evaluated, by their publishers' own rule.
OF_THE_DATA = ("zscore_of_data",)
# Normalisers whose statistics are those of runs of images, and how many images a run is.
OF_A_BATCH = {"croma_batch": 64}
# Normalisers of the earlier of two dates, where it is another one.
OF_THE_EARLIER = {"flood_s1": "flood_s1_corrected"}
# Units of what a normaliser takes, where they are not dB.
UNITS = {"dn_255": "amplitude"}


def normalize(images: Images, valid: Valid, contract: InputContract) -> NDArray[np.uint8] | Images:
    """Images in the contract's range: uint8 for the FGMAE family (0..255 stands for [0, 1]), float32 otherwise.

    Invalid pixels get the band mean after normalisation. Raises BenchError on an unknown normaliser.
    """
    if contract.normalizer not in NORMALIZERS:
        raise unknown("normalizer", contract.normalizer, NORMALIZERS)
    return NORMALIZERS[contract.normalizer](images, valid, contract)


def missing_input(contract: InputContract) -> NDArray[Any]:
    """What stands for a band without any measurement, after the normaliser, (C,): what it makes of an invalid pixel.

    NaN for encoders that mask such bands; the contract's mean in dB where the normaliser leaves invalid pixels NaN.
    """
    mean = np.array(contract.mean, np.float32)
    if contract.missing_band == "mask":
        return np.full_like(mean, np.nan)
    pixels = np.repeat(mean[None, :, None, None], 2, axis=3)
    found: NDArray[Any] = normalize(pixels, np.broadcast_to([True, False], pixels.shape), contract)[0, :, 0, 1]
    return found if found.dtype == np.uint8 else np.where(np.isfinite(found), found, mean)


def _filled(images: Any, valid: Valid, fill: float | NDArray[np.float32]) -> Any:
    """`images` with `fill` in place of invalid pixels."""
    if valid is None:
        return images
    if images.dtype == np.uint8:  # by arithmetic, which takes a quarter of the time of a masked copy
        kept = valid.view(np.uint8)
        images *= kept
        images += (1 - kept) * np.uint8(fill)
    else:
        np.copyto(images, np.asarray(fill, images.dtype), where=~valid)
    return images
