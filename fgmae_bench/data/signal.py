"""From numbers as they are stored to backscatter in dB, once, on reading: which bands, which pixels, which units."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card, Signal
from fgmae_bench.config.contract import POLARISATIONS
from fgmae_bench.errors import BenchError
from fgmae_bench.views.chip import Chip

DECIBELS = {"linear_power": 10.0, "amplitude": 20.0}  # dB of a factor of ten
BLOCK = 1 << 14  # numbers that are converted at once: 128 KiB in double precision
SMALLEST_REGION = 2  # pixels of a region at the edge of an image that was not measured; one pixel alone may be dark


def chip_of(
    stored: NDArray[Any],
    card: Card,
    path: Path,
    *,
    nodata: Sequence[float] = (),
    descriptions: Sequence[str | None] = (),
    synthetic: bool = False,
    applied: bool = False,
) -> Chip:
    """The chip (bands of the card, H, W) in dB of a file's numbers `stored` (bands of the file, H, W), of any format.

    `nodata` and `descriptions` are what the file itself states; with `applied` its numbers are scaled already. Raises
    BenchError naming `path`: bands or size that are not the card's, a constant band.
    """
    places = band_places(card, len(stored), descriptions, path)
    require_size(card, stored.shape[1:], path)
    chosen = stored if places == list(range(len(stored))) else stored[places]
    db, valid = to_db(chosen, card.signal, nodata, applied=applied)
    refuse_constant(path, db, valid)
    return Chip(db=db, valid=None if valid.all() else valid, synthetic=synthetic)


def band_places(card: Card, count: int, descriptions: Sequence[str | None], path: Path) -> list[int]:
    """Which bands (from 0) of a file of `count` bands are the card's. Raises BenchError where they are not there."""
    signal = card.signal
    named = [text or "" for text in descriptions]
    known = f"the file describes its bands as {', '.join(text or '?' for text in named)}" if any(named) else ""
    if signal.described:
        lacking = [text for text in signal.described if text not in named]
        if lacking:
            what = f"{path} has no band that is described as {' or '.join(lacking)}"
            raise BenchError(what, known or "it describes none of its bands: state index under [signal]")
        return [named.index(text) for text in signal.described]
    if signal.index:
        beyond = [str(number) for number in signal.index if number > count]
        if beyond:
            bands = f"{count} band{'s' * (count != 1)}"
            todo = f"correct index under [signal]{'; ' * bool(known)}{known}"
            raise BenchError(f"{path} has {bands}, signal.index names band {' and '.join(beyond)}", todo)
        return [number - 1 for number in signal.index]
    if count != len(signal.bands):
        todo = "replace the file, or say which bands are meant with index under [signal]"
        raise BenchError(
            f"{path} has {count} bands, {card.title} has {len(signal.bands)}", f"{todo}{'; ' * bool(known)}{known}"
        )
    return list(range(count))


def require_size(card: Card, shape: tuple[int, ...], path: Path) -> None:
    """Raise BenchError unless (height, width) is what the card states."""
    if tuple(shape) != tuple(card.signal.size):
        wanted = "x".join(map(str, card.signal.size))
        where = "take its line out of the table" if card.layout == "table" else "take it out of the data"
        todo = f"crop or resample it to {wanted}, or {where}"
        raise BenchError(f"{path} is {shape[0]}x{shape[1]} pixels, {card.title} has {wanted}", todo)


def to_db(
    stored: NDArray[Any], signal: Signal, nodata: Sequence[float] = (), *, applied: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(backscatter in dB, True where a pixel is a measurement), both as `stored` (C, H, W).

    Numbers that are dB as they stand are returned as they are. Others are computed in double precision and rounded to
    float32 once, so that data converted on reading equals data converted before; their invalid pixels are NaN.
    `applied`: the scale was, and invalid pixels are NaN.
    """
    if not signal.converted:
        db = stored.astype(np.float32, copy=False)
        return db, valid_mask(db, signal, nodata)
    valid = np.isfinite(stored)
    if not applied:
        leave_out_fill(valid, stored, signal, nodata)
    db = _converted(stored, signal, applied=applied)
    if signal.units == "dB":
        zero = stored == 0
        if zero.any():
            ends = signal.offset != 0 and not applied  # there 0 is the end of the range, not 0 dB
            valid &= ~(_edge_regions(zero) if ends else _missing_zeros(db, valid, signal))
    elif signal.units in DECIBELS:
        _lift(db, valid, signal)
    if not valid.all():
        db[~valid] = np.nan
    return db, valid


def _converted(stored: NDArray[Any], signal: Signal, *, applied: bool) -> NDArray[np.float32]:
    """Numbers in the units of the card as dB (same shape), what has no logarithm as NaN or an infinity.

    In double precision and rounded once. By blocks: between two steps of arithmetic a block stays in the processor's
    cache, where whole images in double precision would go through memory at each.
    """
    numbers = np.ascontiguousarray(stored)
    db = np.empty(numbers.shape, np.float32)
    flat, into = numbers.reshape(-1), db.reshape(-1)
    held = np.empty(min(BLOCK, flat.size))
    scaled = not applied and (signal.scale, signal.offset) != (1.0, 0.0)
    factor = DECIBELS.get(signal.units)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for at in range(0, flat.size, BLOCK):
            part = flat[at : at + BLOCK]
            block = held[: part.size]
            block[:] = part
            if scaled:
                block *= signal.scale
                block += signal.offset
            if factor is not None:
                np.log10(block, out=block)
                block *= factor
            into[at : at + BLOCK] = block
    return db


def _lift(db: NDArray[np.float32], valid: NDArray[np.bool_], signal: Signal) -> None:
    """Take regions without positive power at the edge out of `valid`, and lift other such pixels to the floor.

    What noise subtraction leaves at or below 0 is the darkest water, not missing data; a region at the edge of the
    image is what the sensor or the map projection did not cover. `db` (C, H, W) has no number there.
    """
    dark = valid & ~(db > -np.inf)  # NaN and what 0 gives
    if not dark.any():
        return
    valid &= ~_edge_regions(dark)
    db[valid & dark] = signal.floor


def floored(chip: Chip, signal: Signal) -> np.int64:
    """Pixels of a chip that had no positive power and were lifted to the floor."""
    if signal.units not in DECIBELS:
        return np.int64(0)
    return np.int64((chip.db == np.float32(signal.floor)).sum())


def valid_mask(db: NDArray[np.float32], signal: Signal, nodata: Sequence[float] = ()) -> NDArray[np.bool_]:
    """True (same shape) where a pixel of a chip is a measurement: finite, no fill value, not in a run of exact zeros.

    A run is two or more zeros side by side or one above the other: one exact zero can be 0 dB, a run cannot, unless
    data is clipped at 0. Chips that were converted have NaN wherever nothing was measured.
    """
    valid = np.isfinite(db)
    if signal.converted:
        return valid
    leave_out_fill(valid, db, signal, nodata)
    if (db == 0).any():
        valid &= ~_missing_zeros(db, valid, signal)
    return valid


def leave_out_fill(
    valid: NDArray[np.bool_], stored: NDArray[Any], signal: Signal, nodata: Sequence[float] = ()
) -> None:
    """Clear `valid` (same shape) where stored numbers are values, or in ranges, that mean "no measurement"."""
    single = stored.dtype == np.float32
    for value in (*signal.nodata, *nodata):
        valid &= stored != (np.float32(value) if single else value)
    for item in signal.fill:
        low, high = item if isinstance(item, tuple) else (item, item)
        valid &= ~((stored >= np.float32(low)) & (stored <= np.float32(high)))


def _missing_zeros(db: NDArray[Any], valid: NDArray[np.bool_], signal: Signal) -> NDArray[np.bool_]:
    """Runs of exact 0 dB that stand for missing data."""
    run = _runs(db == 0)
    if signal.zeros == "measured" or not run.any():
        return np.zeros_like(run)
    if signal.zeros == "auto":
        for values, zeros, kept in zip(
            db.reshape(-1, *db.shape[-2:]),
            run.reshape(-1, *run.shape[-2:]),
            valid.reshape(-1, *valid.shape[-2:]),
            strict=True,
        ):
            if _is_clipped(values, zeros, kept):
                zeros[:] = False
    return run


def _is_clipped(db: NDArray[Any], zeros: NDArray[np.bool_], valid: NDArray[np.bool_]) -> bool:
    """Whether the runs of 0 dB in a band (H, W) are its brightest targets: nothing is above 0, some values are just
    below it, and what is next to the runs is nearer to 0 than to the median of the band.
    """
    others = valid & (db != 0)
    if not zeros.any() or not others.any() or (db[others] > 0).any():
        return False
    if (db[others] > -1).sum() < 0.05 * zeros.sum():
        return False
    beside = cv2.dilate(zeros.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & others
    return bool(beside.any() and np.median(db[beside]) > np.median(db[others]) / 2)


def _runs(zero: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where (…, H, W) a pixel and a neighbour of its row or column are both set."""
    run = np.zeros_like(zero)
    across, down = zero[..., :, 1:] & zero[..., :, :-1], zero[..., 1:, :] & zero[..., :-1, :]
    run[..., :, 1:] |= across
    run[..., :, :-1] |= across
    run[..., 1:, :] |= down
    run[..., :-1, :] |= down
    return run


def _edge_regions(dark: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Regions (C, H, W) of `dark`, connected by rows and columns, that reach the edge of their band."""
    found = np.zeros_like(dark)
    for band, into in zip(dark, found, strict=True):
        count, region, facts, _ = cv2.connectedComponentsWithStats(band.astype(np.uint8), connectivity=4)
        edge = np.zeros(count, bool)
        for side in (region[0], region[-1], region[:, 0], region[:, -1]):
            edge[side] = True
        edge &= facts[:, cv2.CC_STAT_AREA] >= SMALLEST_REGION
        edge[0] = False  # what is not dark
        into[:] = edge[region]
    return found


def refuse_constant(path: Path, db: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
    """Raise BenchError naming a file of which a band holds one value only. A band without any is left out later."""
    for band in range(len(db)):
        few = db[band, 0][valid[band, 0]]
        if few.size and (few != few[0]).any():  # nearly always the first row says it
            continue
        values = db[band][valid[band]]
        if values.size and values.min() == values.max():
            raise BenchError(f"{path}: band {band + 1} is constant ({values[0]:g})", "replace or remove the file")


def polarisation(text: str) -> str | None:
    """The polarisation that a description or a file's name ends or begins with, such as `Sigma0_VV_db`; None without
    exactly one.
    """
    words = "".join(letter if letter.isalnum() else " " for letter in text.upper()).split()
    found = {word for word in words if word in POLARISATIONS}
    return found.pop() if len(found) == 1 else None
