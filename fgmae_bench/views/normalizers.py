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
LARGE = 96 * 96  # pixels of a band from which counting levels takes less time than sorting values


def row_quantiles(values: NDArray[np.float32], quantiles: tuple[float, ...]) -> NDArray[np.float32]:
    """Quantiles (R, Q) of each row of `values` (R, n), linear interpolation, bit-identical to `np.quantile` row by row.

    One vectorised sort of all rows replaces a call of `np.quantile` for each. The interpolation follows numpy 2's order
    of operations for float32 input: position in float64, differences and products in float32.
    """
    last = values.shape[1] - 1
    ordered = np.sort(values, axis=1)
    result = np.empty((len(values), len(quantiles)), np.float32)
    for i, quantile in enumerate(quantiles):
        below = math.floor(last * quantile)
        # numpy interpolates from the nearer of the two values; the last bit depends on it
        t = last * quantile - below
        low, high = ordered[:, below], ordered[:, min(below + 1, last)]
        result[:, i] = high - (high - low) * np.float32(1 - t) if t >= 0.5 else low + (high - low) * np.float32(t)
    return result


def clip_to_quantiles(images: Images, valid: Valid, joint: bool) -> Images:
    """Each image clipped to its own [1 %, 99 %] quantiles: per band, or over both bands when `joint`."""
    batch, bands = images.shape[:2]
    rows = images.reshape(batch, 1, -1) if joint else images.reshape(batch, bands, -1)
    flat = rows.reshape(-1, rows.shape[-1])
    if valid is None:
        limits = row_quantiles(flat, QUANTILES)
    else:
        kept = valid.reshape(flat.shape)
        # rows keep different numbers of pixels, so they are sorted one by one
        limits = np.zeros((len(flat), len(QUANTILES)), np.float32)
        for limit, row, keep in zip(limits, flat, kept, strict=True):
            if keep.any():
                limit[:] = row_quantiles(row[keep][None], QUANTILES)[0]
    limits = limits.reshape(batch, rows.shape[1], 2, 1, 1)
    return np.clip(images, limits[:, :, 0], limits[:, :, 1])


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


def limit_levels(levels: NDArray[np.uint8]) -> tuple[int, int] | None:
    """What `_to_bytes` makes of the quantiles of a plane (H, W), from its levels alone, without sorting values.

    None where the two values that a quantile is between are of different levels: then it must be known itself.
    """
    below = np.cumsum(
        cv2.calcHist([levels], [0], None, [256], [0, 256]).ravel(), dtype=np.int64
    )  # pixels up to each level
    last = levels.size - 1
    ranks = [math.floor(last * quantile) for quantile in QUANTILES]
    # a quantile is between the values of two neighbouring ranks
    around = np.array([min(rank + more, last) for rank in ranks for more in (0, 1)])
    low, above_low, high, above_high = below.searchsorted(around, side="right").tolist()
    return (low, high) if low == above_low and high == above_high else None


def _clipped_as_levels(images: Images, contract: InputContract) -> NDArray[np.uint8]:
    """The same bytes as of a clip per band before `_to_bytes`: its operations are monotone, rounding too."""
    levels = _to_bytes(images, contract)
    for image, planes in zip(images, levels, strict=True):
        for band, plane in enumerate(planes):
            known = limit_levels(plane)
            # a quantile between two levels is computed itself, in the band's place so that its window applies
            if known is None:
                limits = np.zeros((1, len(planes), 1, len(QUANTILES)), np.float32)
                limits[0, band] = row_quantiles(image[band].reshape(1, -1), QUANTILES)
                low, high = _to_bytes(limits, contract)[0, band, 0].tolist()
                known = low, high
            np.clip(plane, *known, out=plane)
    return levels


def fgmae(images: Images, valid: Valid, contract: InputContract) -> NDArray[np.uint8]:
    """The published input of FGMAE's transfer code: quantile clip per band, then eight bits. Source: zhu-xlab/FGMAE."""
    # the same bytes either way: small images sort faster than they count
    if valid is None and images[0, 0].size >= LARGE:
        return _clipped_as_levels(images, contract)
    return _filled(_to_bytes(clip_to_quantiles(images, valid, joint=False), contract), valid, 127)


def fgmae_joint(images: Images, valid: Valid, contract: InputContract) -> NDArray[np.uint8]:
    """As `fgmae` with one clip shared by both bands, as in FGMAE's pre-training."""
    return _filled(_to_bytes(clip_to_quantiles(images, valid, joint=True), contract), valid, 127)


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
}  # fmt: skip


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
    if valid is not None:
        images[~valid] = np.broadcast_to(np.asarray(fill, images.dtype), images.shape)[~valid]
    return images
