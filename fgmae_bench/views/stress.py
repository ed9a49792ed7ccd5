"""Stresses: what a radar, its processor or its user may do to backscatter, as pure functions with a severity.

Each takes backscatter in dB (C, H, W) with its validity mask and returns both changed; it acts on linear power, before
any normaliser. Draws are keyed by (seed, axis, draw, sample), never by the severity, so that a curve over severities is
of one realisation. Definitions and sources: docs/stress.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from fgmae_bench.errors import BenchError
from fgmae_bench.system.randomness import generator

Db = NDArray[np.float32]  # (C, H, W) backscatter in dB
Valid = NDArray[np.bool_]  # (C, H, W)
Stressed = tuple[Db, Valid]
Despeckle = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # power (C, H, W) to power
Number = TypeVar("Number", bound=np.generic)
LOOKS = 4.4  # equivalent looks of Sentinel-1 IW GRDH (CLS 2016)
BLUR = 0.7  # pixels: Gaussian that gives neighbours of a GRDH product their correlation of about .6
REFERENCE_ANGLE = 38.0  # degrees, the middle of the IW swath
LOW_BORDER = -50.0  # dB, of border pixels that older processors left low instead of zero


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a stress may know of a chip. `angle` in degrees; `group` is its acquisition; `bands` in the file's order."""

    sample: str
    group: str = ""
    seed: int = 0
    draw: int = 0
    angle: float = REFERENCE_ANGLE
    bands: tuple[str, ...] = ("VV", "VH")
    means: tuple[float, ...] = (-12.59, -20.26)  # dB by band, of the training split
    looks: float = LOOKS  # equivalent looks that the data has
    despeckle: Despeckle | None = None  # a learned filter, where its weights are named

    def random(self, axis: str, *, by: Literal["sample", "group"] = "sample") -> np.random.Generator:
        """The generator of one axis for this chip, or for all chips of its acquisition."""
        return generator(self.seed, "stress", axis, self.draw, self.sample if by == "sample" else self.group)


def to_power(db: Db) -> NDArray[np.float64]:
    """Linear power of backscatter in dB."""
    power: NDArray[np.float64] = np.power(10.0, np.asarray(db, np.float64) / 10)
    return power


def to_db(power: NDArray[np.float64]) -> Db:
    """Backscatter in dB of linear power; not finite where the power is not positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (10 * np.log10(power)).astype(np.float32)


# Radiometry: constants in dB, added.


def offset(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """A common bias of `severity` dB, as between two processors or satellites."""
    return db + np.float32(severity), valid


def offset_down(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """A common bias of minus `severity` dB."""
    return offset(db, valid, -severity, scene)


def offset_acquisition(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """One bias for each acquisition, Gaussian of `severity` dB deviation: batch statistics cannot undo it."""
    return offset(db, valid, severity * scene.random("offset", by="group").standard_normal(), scene)


def imbalance(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """The first band up by half of `severity` dB, the others down by half."""
    signs = np.array([1.0] + [-1.0] * (len(db) - 1), np.float32)
    return db + signs[:, None, None] * np.float32(severity / 2), valid


def imbalance_reverse(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """The first band down by half of `severity` dB, the others up by half."""
    return imbalance(db, valid, -severity, scene)


def slope(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """Backscatter that falls by `severity` dB a degree of incidence from 38 degrees on."""
    return offset(db, valid, -severity * (scene.angle - REFERENCE_ANGLE), scene)


def gamma0(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """Sigma nought to gamma nought: -10 log10(cos incidence) dB, times `severity` (1 is the conversion)."""
    return offset(db, valid, -severity * 10 * math.log10(math.cos(math.radians(scene.angle))), scene)


# Speckle and noise: draws in linear power.


def correlated(draw: np.random.Generator, shape: tuple[int, int], blur: float) -> NDArray[np.float64]:
    """A field (H, W) of standard normal values whose neighbours are correlated; `blur` in pixels, 0 for white noise.

    The variance is set by the filter's own sum of squares, not by the sample's: a small field keeps its spread.
    """
    if not blur:
        return draw.standard_normal(shape)
    reach = math.ceil(4 * blur)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / blur) ** 2)
    taps /= math.sqrt(np.square(taps).sum())  # each axis keeps unit variance
    white = draw.standard_normal((shape[0] + 2 * reach, shape[1] + 2 * reach))
    field = np.asarray(
        cv2.sepFilter2D(white, cv2.CV_64F, taps, taps), np.float64
    )  # the frame around it goes: the field has no edge
    return field[reach:-reach, reach:-reach]


Table = NDArray[np.float64]
REACH, STEPS = 6.0, 4096  # normal scores of a table: from -REACH to REACH in so many equal steps


@lru_cache(maxsize=32)
def _beta_table(looks: float, target: float) -> Table:
    """Quantiles of Beta(target, looks - target) at normal scores: the inverse is slow, a table is not."""
    return np.asarray(special.betaincinv(target, looks - target, special.ndtr(np.linspace(-REACH, REACH, STEPS + 1))))


@lru_cache(maxsize=8)
def _gamma_table(shape: float) -> Table:
    """Quantiles of Gamma(shape, 1) at normal scores."""
    return np.asarray(special.gammaincinv(shape, special.ndtr(np.linspace(-REACH, REACH, STEPS + 1))))


def _looked_up(scores: NDArray[np.float64], table: Table) -> NDArray[np.float64]:
    """The table at normal scores, linear between its entries: np.interp without its search, which equal steps spare."""
    place = (np.clip(scores, -REACH, REACH) + REACH) * (STEPS / (2 * REACH))
    below = np.minimum(place.astype(np.int32), STEPS - 1)
    low = table[below]
    found: NDArray[np.float64] = low + (place - below) * (table[below + 1] - low)
    return found


def thinned(
    power: NDArray[np.float64], target: float, scores: NDArray[np.float64], looks: float = LOOKS
) -> NDArray[np.float64]:
    """Power of `looks` L as if of `target` looks T: times (L / T) B, B ~ Beta(T, L - T) by `scores`.

    Gamma(L) becomes exactly Gamma(T); the mean of every pixel stays, whatever its backscatter.
    """
    return power * (looks / target) * _looked_up(scores, _beta_table(looks, target))


def _lose_looks(db: Db, valid: Valid, severity: float, scene: Scene, blur: float) -> Stressed:
    draw, target = scene.random("speckle"), scene.looks * 10 ** (-severity / 10)
    power = [thinned(to_power(band), target, correlated(draw, band.shape, blur), scene.looks) for band in db]
    return to_db(np.stack(power)), valid


def speckle(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """`severity` dB of looks lost: speckle whose neighbours are correlated as those of a GRDH product are."""
    return _lose_looks(db, valid, severity, scene, BLUR)


def speckle_white(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """`severity` dB of looks lost pixel by pixel: no radar does this; it is shown for comparison."""
    return _lose_looks(db, valid, severity, scene, 0)


def noisy(
    power: NDArray[np.float64],
    noise: float,
    first: NDArray[np.float64],
    rest: NDArray[np.float64],
    looks: float = LOOKS,
) -> NDArray[np.float64]:
    """Power with noise of mean `noise` joined coherently: (N / 2L) chi'2 of 2L degrees, noncentrality 2L x / N.

    Written as (sqrt(x) + sqrt(N / 2L) z)^2 + (N / 2L) chi2 of 2L - 1, with z and the scores of chi2 drawn once, which
    holds for looks that are not whole and goes to x as N goes to 0. Gamma(L, s / L) becomes Gamma(L, (s + N) / L).
    """
    share = noise / (2 * looks)
    chi2 = 2 * _looked_up(rest, _gamma_table(looks - 0.5))
    return np.square(np.sqrt(power) + math.sqrt(share) * first) + share * chi2


def _add_noise(db: Db, severity: float, scene: Scene) -> NDArray[np.float64]:
    draw, level = scene.random("noise"), 10 ** (severity / 10)
    fields = [(correlated(draw, band.shape, BLUR), correlated(draw, band.shape, BLUR)) for band in db]
    return np.stack([noisy(to_power(band), level, *pair, scene.looks) for band, pair in zip(db, fields, strict=True)])


def noise(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """Thermal noise of `severity` dB noise-equivalent sigma nought, added to what the chip holds already."""
    return to_db(_add_noise(db, severity, scene)), valid


def noise_denoised(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """The same noise with its mean subtracted again, as processors do: what is not positive then is invalid."""
    power = _add_noise(db, severity, scene) - 10 ** (severity / 10)
    positive = power > 0
    return to_db(np.where(positive, power, 1.0)), valid & positive


# Sampling and filters.


def _without_holes(power: NDArray[np.float64], valid: Valid) -> NDArray[np.float64]:
    """Power whose invalid pixels hold their band's median, so that filters meet no NaN."""
    clean = np.where(valid, power, 0.0)
    for band, kept in zip(clean, valid, strict=True):
        band[~kept] = np.median(band[kept]) if kept.any() else 1.0
    return clean


def _window_mean(image: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    return np.stack([cv2.blur(band, (side, side), borderType=cv2.BORDER_REFLECT) for band in image])


def _local_mean(power: NDArray[np.float64], valid: Valid, side: int) -> NDArray[np.float64]:
    """Mean (C, H, W) of the valid pixels of a window around each pixel; 1 where there is none."""
    weight = _window_mean(valid.astype(np.float64), side)
    total = _window_mean(np.where(valid, power, 0.0), side)
    return np.divide(total, weight, out=np.ones_like(total), where=weight > 1e-9)


def boxcar(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """Power averaged over a window of `severity` pixels a side."""
    return to_db(_local_mean(to_power(db), valid, int(severity))), valid


def lee(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """Lee's filter: m + W (x - m), W = max(0, 1 - Cu2 / Ci2), Cu2 = 1 / looks, over `severity` pixels a side."""
    power, side = to_power(db), int(severity)
    mean = _local_mean(power, valid, side)
    variance = np.maximum(_local_mean(np.square(power), valid, side) - np.square(mean), 0.0)
    spread = variance / np.square(mean)
    weight = np.maximum(0.0, 1 - np.divide(1 / scene.looks, spread, out=np.full_like(spread, np.inf), where=spread > 0))
    return to_db(np.where(valid, mean + weight * (power - mean), 1.0)), valid


def sar2sar(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """A share `severity` of the power that SAR2SAR leaves, the rest as it was. Raises BenchError without weights."""
    if scene.despeckle is None:
        raise BenchError("sar2sar needs its weights", "name them: --despeckler FILE")
    power = _without_holes(to_power(db), valid)
    return to_db((1 - severity) * power + severity * scene.despeckle(power)), valid


def resolution(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """Blocks of `severity` x `severity` pixels share the mean power of their valid pixels, at the same grid."""
    side, (bands, height, width) = int(severity), db.shape
    pad = ((0, 0), (0, -height % side), (0, -width % side))
    kept = np.pad(valid, pad)  # what is added at the edge counts for nothing
    power = np.pad(np.where(valid, to_power(db), 0.0), pad)
    cells = (bands, kept.shape[1] // side, side, kept.shape[2] // side, side)
    count = kept.reshape(cells).sum((2, 4))
    mean = np.divide(power.reshape(cells).sum((2, 4)), count, out=np.ones(count.shape), where=count > 0)
    coarse = mean.repeat(side, 1).repeat(side, 2)[:, :height, :width]
    return to_db(coarse), valid


def _touching(valid: Valid, severity: float) -> Valid:
    """Valid pixels after a shift to the right: those that no invalid one was mixed into."""
    near, far = (_rolled(valid, round_(severity)) for round_ in (math.floor, math.ceil))
    return near & far


def _rolled(image: NDArray[Number], pixels: int) -> NDArray[Number]:
    """An image (C, H, W) whole pixels to the right, mirrored at the edge that comes in."""
    return np.pad(image, ((0, 0), (0, 0), (pixels, 0)), mode="symmetric")[:, :, : image.shape[2]]


def shift(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """The image `severity` pixels to the right, mirrored at the edge; a share of a pixel by its Fourier phase.

    Linear interpolation would average speckle away (see `resampling`); a phase does not.
    """
    if float(severity).is_integer():
        return _rolled(db, int(severity)), _rolled(valid, int(severity))
    power = _without_holes(to_power(db), valid)
    mirrored = np.concatenate([power, power[:, :, ::-1]], axis=2)  # periodic without a jump
    moved = [np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(band), (0, severity))).real for band in mirrored]
    smallest = power.min((1, 2))[:, None, None]  # ringing may not fall below the darkest pixel
    return to_db(np.maximum(np.stack(moved)[:, :, : db.shape[2]], smallest)), _touching(valid, severity)


def resampling(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """The image `severity` of a pixel to the right by linear interpolation of power: a mild despeckler."""
    power = _without_holes(to_power(db), valid)
    return to_db((1 - severity) * power + severity * _rolled(power, 1)), _touching(valid, severity)


# Missing, damaged and coarsened values.


def _without(db: Db, band: str, scene: Scene) -> Db:
    at, changed = scene.bands.index(band), db.copy()
    changed[at] = scene.means[at]
    return changed


def missing_vv(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """VV replaced by its mean over the training split, in dB."""
    return _without(db, "VV", scene), valid


def missing_vh(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """VH replaced by its mean over the training split, in dB."""
    return _without(db, "VH", scene), valid


def swapped(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """The bands in reverse order, as in some published copies."""
    return db[::-1].copy(), valid[::-1].copy()


def _strip(shape: tuple[int, ...], severity: float, scene: Scene) -> NDArray[np.bool_]:
    """A straight strip (H, W) of a share `severity` of the columns, one at the least, from the left or the right by the
    draw.
    """
    columns = max(1, round(severity * shape[-1]))  # of 8 pixels 5 % would be none
    strip = np.zeros(shape[-2:], bool)
    strip[:, :columns] = True
    return strip[:, ::-1] if scene.random("border").random() < 0.5 else strip


def border(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """A strip at one side, a share `severity` of the image, without measurement."""
    return db, valid & ~_strip(db.shape, severity, scene)


def border_low(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """The same strip at -50 dB and taken for valid: border noise of processors before March 2018."""
    return np.where(_strip(db.shape, severity, scene), np.float32(LOW_BORDER), db), valid


def stripes(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """`severity` lines without measurement, at rows by the draw."""
    rows = scene.random("stripes").permutation(db.shape[1])[: int(severity)]
    kept = valid.copy()
    kept[:, rows] = False
    return db, kept


def lost(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """A share `severity` of single pixels of each band without measurement, more of the same pixels as it rises."""
    return db, valid & (scene.random("lost").random(db.shape) >= severity)


def contrast(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """dB scaled by 1 + `severity` about each band's mean; twice as far, and more, is 20 log10 where 10 was meant."""
    centre = np.asarray(scene.means, np.float32)[:, None, None]
    return (db - centre) * np.float32(1 + severity) + centre, valid


def quantised(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """Values rounded to steps of `severity` dB."""
    return np.round(db / np.float32(severity)) * np.float32(severity), valid


def eight_bit(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """Through 256 levels from `severity` dB to +5 dB and back; what is outside takes the nearest end."""
    low, step = np.float32(severity), np.float32((5 - severity) / 255)
    return np.clip(np.round((db - low) / step), 0, 255) * step + low, valid


def floor(db: Db, valid: Valid, severity: float, scene: Scene) -> Stressed:
    """Values below `severity` dB raised to it, as clipping does."""
    return np.maximum(db, np.float32(severity)), valid
