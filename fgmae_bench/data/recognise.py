"""What units the pixels of several images are in: from their ruler, the spread of speckle in homogeneous blocks.

Of Sentinel-1 GRD the fifth most homogeneous of all blocks of 8x8 pixels spread by 1.6 to 1.7 dB (medians over
BigEarthNet, TerraMesh, SSL4EO-S12 and Sen1Floods11; 1.4 to 2 dB in nearly every image; 2.2 dB over areas larger than
the correlation of neighbours). The same blocks of 10 log10 of amplitude spread by half as much. Speckle multiplies, so
the spread of power and of amplitude follows the level, and that of any logarithm does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RULER_DB = 1.65
UNITS = {
    "dB": "backscatter in dB",
    "linear_power": "linear power",
    "amplitude": "amplitude",
    "eight_bit": "8-bit grey values",
    "half_dB": "10*log10 of amplitude, half of dB",
    "logarithm": "another logarithm than dB",
    "scaled": "dB scaled to another range",
    "ask": "units that the pixels cannot tell",
}
# What to do about each: said where a card states something else, and by `inspect` without a card.
ADVICE = {
    "dB": 'state units = "dB" under [signal]',
    "linear_power": 'state units = "linear_power" under [signal]: it is converted on reading',
    "amplitude": 'state units = "amplitude" under [signal]: it is converted on reading',
    "eight_bit": "use the data before its stretch to 8 bits, or state scale and offset under [signal] that undo it "
    "(low..high dB on 0..255: scale = (high - low) / 255, offset = low)",
    "half_dB": "state scale = 2.0 under [signal]: 20*log10 is what makes dB of amplitude",
    "logarithm": "state scale under [signal]: 10.0 for log10 of power, 4.343 for the natural logarithm of power, 8.686 "
    "for that of amplitude, 0.5 or 0.434 where 20*log10 or 10*ln was taken of power",
    "scaled": "state scale and offset under [signal] that undo it (low..high dB on 0..1: scale = high - low, "
    "offset = low; on -1..1: half of both, and their mean)",
    "ask": "find out how it was made and state units under [signal]",
}
# Logarithms that are not dB: (their size of a dB, words).
LOGARITHMS = (
    (0.1, "log10 of power"),
    (0.1151, "natural logarithm of amplitude"),
    (0.2303, "natural logarithm of power"),
    (2.0, "20*log10 of power"),
    (2.3026, "10 times the natural logarithm of power"),
)


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What the pixels of several images say, per band in the order of `bands`. Medians are per image, then over images.

    Values that a file repeats far away from all others are `fills`, and in nothing else.
    """

    images: int
    bands: tuple[str, ...]
    median: tuple[float, ...]
    spread: tuple[float, ...]  # standard deviation in the fifth most homogeneous of blocks, in the values' own units
    spread_db: tuple[float, ...]  # the same of 10 log10 of the values, NaN where they are not positive
    slope: float  # d ln(spread) / d ln(level) over images and bands; NaN where levels are not positive or all alike
    first_minus_second: float  # median over images of the median difference; NaN of one band
    ratio: float  # median over images of median(first) / median(second)
    same: float  # median over images of the share of pixels in which a later band equals the first
    negative: float  # share of valid values below 0
    whole: float  # share of valid values that are whole numbers
    minimum: float
    maximum: float
    invalid: float  # share of invalid pixels
    fills: tuple[tuple[float, float], ...] = ()  # (value, share of all pixels), the most frequent first


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`units`, a key of UNITS, with the cues that speak for it; `possible` are what a card may state all the same."""

    units: str
    cues: tuple[str, ...]
    possible: tuple[str, ...] = ()
    advice: str = ""
    scale: float | None = None  # what makes dB of the values, where that is known

    @property
    def words(self) -> str:
        """The units in words."""
        return UNITS[self.units]

    @property
    def todo(self) -> str:
        """What to do about them."""
        return self.advice or ADVICE[self.units]


def recognise_units(s: Statistics) -> Finding:
    """The units that statistics speak for; `ask` where they do not agree."""
    bright = int(np.argmax(s.median))
    if s.whole > 0.99 and s.minimum >= 0 and 1 < s.maximum <= 255:
        return _found("eight_bit", "whole numbers", f"range {s.minimum:g} to {s.maximum:g}")
    if s.negative <= 0.02 and not s.slope < 0.5 and s.median[bright] > 0:
        return _power_or_amplitude(s, bright)
    return _logarithm(s, bright)


def _power_or_amplitude(s: Statistics, bright: int) -> Finding:
    """Two of three must agree on one and none contradict: ruler, ratio of the bands, level of the brighter band."""
    spread, level, ratio = s.spread_db[bright], s.median[bright], max(s.ratio, 1 / s.ratio) if s.ratio else math.nan
    votes = {
        f"homogeneous blocks spread by {spread:.2f} dB as power": _between(spread, (0.6, 1.1), (1.35, 2.6)),
        f"the bands are {ratio:.1f} times apart": _between(ratio, (1.3, 2.5), (2.9, 9.0)),
        f"median {level:.3g}": "amplitude" if level > 1.5 else _between(level, (0.19, 1.5), (0.0, 0.13)),
    }
    if s.whole > 0.99:  # digital numbers: amplitude, as detected products are
        votes[f"whole numbers up to {s.maximum:g}"] = "amplitude"
    positive = "no value is negative" if s.negative == 0 else f"{s.negative:.1%} of the values are negative"
    said = {vote for vote in votes.values() if vote}
    cues = tuple(text for text in votes if "nan" not in text)
    agreeing = [vote for vote in votes.values() if vote]
    if len(said) == 1 and len(agreeing) >= 2 and next(iter(votes.values())):
        return _found(said.pop(), positive, *cues)
    return Finding(
        units="ask",
        cues=(positive, *cues),
        possible=("linear_power", "amplitude"),
        advice="the pixels cannot tell power from amplitude: find out which it is and state units under [signal]",
    )


def _between(value: float, amplitude: tuple[float, float], power: tuple[float, float]) -> str:
    """Which of two ranges a value is in, empty where in neither."""
    if amplitude[0] <= value <= amplitude[1]:
        return "amplitude"
    return "linear_power" if power[0] <= value <= power[1] else ""


def _logarithm(s: Statistics, bright: int) -> Finding:
    """dB, another logarithm, or dB scaled: by the size of a dB that the ruler gives, and the level that follows."""
    spread, level = s.spread[bright], s.median[bright]
    size = spread / RULER_DB  # of one dB, in the values' own units
    cues = (
        f"medians {' and '.join(f'{value:.3g}' for value in s.median)}",
        f"homogeneous blocks spread by {spread:.2g}",
    )
    if not np.isfinite(size) or size <= 0:
        return Finding(units="ask", cues=cues)
    if s.whole > 0.99 and size > 3:
        return _scaled(s, size, cues)
    if s.minimum >= -1.001 and s.maximum <= 1.001:
        ends = "0 to 1" if s.minimum >= 0 else "-1 to 1"
        return _found("scaled", f"all values are from {ends}", *cues)
    in_db = -35 < level < 0 and s.minimum > -130 and s.maximum < 60
    if in_db and 0.72 < size < 1.55 and s.negative > 0.5:
        return _found("dB", f"{s.negative:.0%} of the values are negative", *cues)
    if in_db and 0.36 < size <= 0.72:
        return _half_or_smooth(s, bright, cues)
    if -30 < level / size < -3:
        near = [words for value, words in LOGARITHMS if 0.78 < size / value < 1.28]
        if near:
            return _found("logarithm", f"as {' or '.join(near)} would have it", *cues)
    if in_db and 0.2 < size < 3 and -25 < level < -3:
        return Finding(units="ask", cues=cues, possible=("dB",), advice=_SMOOTH)
    return _scaled(s, size, cues)


_SMOOTH = (
    "the pixels cannot tell dB that was averaged, filtered or is of one look from a scaled logarithm: state scale "
    'under [signal] if it was scaled, or units = "dB" if it was not'
)


def _half_or_smooth(s: Statistics, bright: int, cues: tuple[str, ...]) -> Finding:
    """Speckle of half the usual size: 10 log10 of amplitude, or dB that was averaged or filtered."""
    gap, level = abs(s.first_minus_second), s.median[bright]
    if gap < 4.2 and level > -8.5 and min(s.median) > -13.5:
        return _found("half_dB", f"bands {gap:.1f} apart, half of what dB has", *cues, scale=2.0)
    if gap > 4.6 and level < -8:
        return _found("dB", f"bands {gap:.1f} dB apart", "smoother than speckle of 4.4 looks", *cues)
    return Finding(units="ask", cues=cues, possible=("dB",), advice=_SMOOTH)


def _scaled(s: Statistics, size: float, cues: tuple[str, ...]) -> Finding:
    """dB by a factor; where that is a power of ten and the level fits, the scale that undoes it."""
    power = 10.0 ** round(math.log10(size))
    text = f"a dB is about {size:.2g}"
    if power != 1 and 0.6 < size / power < 1.6 and -35 < max(s.median) / power < 3:
        return _found("scaled", text, *cues, advice=f"state scale = {1 / power:g} under [signal]", scale=1 / power)
    return _found("scaled", text, *cues)


def _found(units: str, *cues: str, advice: str = "", scale: float | None = None) -> Finding:
    return Finding(units=units, cues=cues, possible=(units,), advice=advice, scale=scale)


# --- one image


SIDE, SMALL_SIDE = 8, 4  # of blocks, pixels; the smaller one for images below 32 pixels
SMALL_RULER = 1.15 / RULER_DB  # blocks of 4x4 spread by less: neighbours are correlated
LEAST_REPEATS = 16


def homogeneous(band: NDArray[np.float64], of: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray) -> float:
    """Standard deviation of `of` a band (H, W) in the fifth most homogeneous of its blocks without NaN, as of 8x8."""
    side = SIDE if min(band.shape) >= 4 * SIDE else SMALL_SIDE
    height, width = (length // side * side for length in band.shape)
    tiled = band[:height, :width].reshape(height // side, side, width // side, side)
    blocks = tiled.swapaxes(1, 2).reshape(-1, side * side)
    blocks = blocks[np.isfinite(blocks).all(axis=1)]
    if not len(blocks):
        return math.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        spreads = of(blocks).std(axis=1)
    spreads = spreads[np.isfinite(spreads)]
    found = float(np.quantile(spreads, 0.2)) if len(spreads) else math.nan
    return found if side == SIDE else found / SMALL_RULER


def repeated_fill(values: NDArray[np.float64]) -> tuple[float, int] | None:
    """(value, how often) of a value that is repeated far from nearly all others, as fills are; None without one.

    `values` are finite, in ascending order. Data that is clipped repeats a value as well, but others come close to it.
    """
    if len(values) < 4 * LEAST_REPEATS:
        return None
    if not (values[LEAST_REPEATS - 1 :] == values[: 1 - LEAST_REPEATS]).any():  # nearly always none is so frequent
        return None
    found, counts = np.unique(values, return_counts=True)
    for place in np.argsort(counts)[::-1][:3]:
        value, count = float(found[place]), int(counts[place])
        if count < LEAST_REPEATS or count == len(values):
            return None
        rest = values[values != value]
        low, first, last, high = np.quantile(rest, (0.005, 0.25, 0.75, 0.995))
        near = int((np.abs(rest - value) <= 0.1 * (last - first)).sum())
        if not low <= value <= high and near < 0.001 * len(rest) and count >= 20 * near:
            return value, count
    return None
