"""Real data held against what its card states: units and band order, from medians over many images, never from one."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card
from fgmae_bench.data.index import Index
from fgmae_bench.data.sample_cache import cached_arrays, load_arrays
from fgmae_bench.data.samples import Samples, pixels_key
from fgmae_bench.errors import BenchError, note
from fgmae_bench.system.randomness import generator
from fgmae_bench.views.chip import Chip

MIN_IMAGES = 30  # fewer cannot be judged: calm water alone brings VV - VH of a single image to 0 dB
SAMPLED = 64
UNITS = {
    "dB": "backscatter in dB",
    "linear_power": "linear power",
    "amplitude": "amplitude",
    "eight_bit": "8-bit grey values",
    "ambiguous": "ambiguous units",
}


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What the pixels of several images say, per band in file order. Medians are taken per image, then over images."""

    images: int
    bands: tuple[str, ...]
    median: tuple[float, ...]
    first_minus_second: float  # median over images of the median difference
    ratio: float  # median over images of median(first) / median(second)
    negative: float  # share of valid values below 0
    whole: float  # share of valid values that are whole numbers
    minimum: float
    maximum: float
    local_variation: float  # median over images of (std / mean) in 4x4 blocks, first band
    invalid: float  # share of invalid pixels


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`units` recognised with the cues that speak for it; `refusal` and `warnings` in words."""

    statistics: Statistics
    units: str
    cues: tuple[str, ...]
    refusal: BenchError | None
    warnings: tuple[dict[str, str], ...]


def sample_rows(index: Index, count: int = SAMPLED) -> NDArray[np.int64]:
    """Up to `count` row numbers, evenly over the classes, by a fixed key."""
    order = generator(0, "audit", len(index.files)).permutation(len(index.files))
    if index.labels.ndim == 2:
        return np.sort(order[:count])
    rank = np.empty(len(order), np.int64)
    for label in np.unique(index.labels):
        rows = order[index.labels[order] == label]
        rank[rows] = np.arange(len(rows))
    return np.sort(order[np.argsort(rank[order], kind="stable")][:count])


def measure(chips: list[Chip], bands: tuple[str, ...]) -> Statistics:
    """Statistics of chips (each (2, H, W), file order)."""
    return reduced(np.array([image_statistics(chip) for chip in chips], np.float64), bands)


class ImageStatistics(NamedTuple):
    """What the audit keeps of one image, or, with a column in each field, of several."""

    first: Any  # medians of the bands in file order
    second: Any
    difference: Any  # median of first - second
    ratio: Any  # first / second, NaN where second is 0
    variation: Any  # local variation of the first band
    valid: Any  # numbers of values: valid, negative, whole, all
    negative: Any
    whole: Any
    pixels: Any
    minimum: Any
    maximum: Any
    synthetic: Any  # 1 where the file carries the tag


def image_statistics(chip: Chip) -> ImageStatistics:
    """Statistics of one image. Counts are summed over images later, which is exact; medians stay per image."""
    masked = chip.db.astype(np.float64)
    if chip.valid is not None:
        masked = np.where(chip.valid, masked, np.nan)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)  # an image that is left out
        first, second = np.nanmedian(masked, axis=(1, 2))
        difference = np.nanmedian(masked[0] - masked[1])
    values = masked[np.isfinite(masked)]
    return ImageStatistics(
        first=first,
        second=second,
        difference=difference,
        ratio=first / second if second else np.nan,
        variation=_local_variation(masked[0]),
        valid=len(values),
        negative=(values < 0).sum(),
        whole=(values == np.round(values)).sum(),
        pixels=chip.db.size,
        minimum=values.min(initial=np.inf),
        maximum=values.max(initial=-np.inf),
        synthetic=chip.synthetic,
    )


def reduced(table: NDArray[np.float64], bands: tuple[str, ...]) -> Statistics:
    """Statistics of several images from a row (12,) of `image_statistics` each."""
    columns = ImageStatistics(*table.T)
    valid = columns.valid.sum()
    return Statistics(
        images=len(table),
        bands=bands,
        median=(float(np.nanmedian(columns.first)), float(np.nanmedian(columns.second))),
        first_minus_second=float(np.nanmedian(columns.difference)),
        ratio=_median(columns.ratio),
        negative=float(columns.negative.sum() / valid),
        whole=float(columns.whole.sum() / valid),
        minimum=float(columns.minimum.min()),
        maximum=float(columns.maximum.max()),
        local_variation=_median(columns.variation),
        invalid=float(1 - valid / columns.pixels.sum()),
    )


def recognise_units(s: Statistics) -> tuple[str, tuple[str, ...]]:
    """(units, cues) from several cues together; `ambiguous` unless they agree.

    dB: negative medians in a plausible range. 8-bit: whole numbers in 0..255. Power against amplitude (neither is ever
    negative) by three cues of which two must agree: the level of the co-polarised median, the ratio of the bands (4.8
    to 7.9 dB apart in genuine scenes: 3.0-6.2 in power, 1.7-2.5 in amplitude) and the local variation of 4-5 looks
    (.45-.5 in power, half of it in amplitude).
    """
    high, low = max(s.median), min(s.median)
    if s.negative > 0.5 and low > -35 and high < 3 and s.maximum < 45:
        return "dB", (f"{s.negative:.0%} of the values are negative", f"medians {low:.1f} and {high:.1f}")
    if s.negative > 0:
        return "ambiguous", (f"{s.negative:.1%} of the values are negative", f"medians {low:.3g} and {high:.3g}")
    if s.whole > 0.99 and s.minimum >= 0 and s.maximum <= 255 and s.maximum > 1:
        return "eight_bit", ("whole numbers", f"range {s.minimum:g} to {s.maximum:g}")
    ratio = max(s.ratio, 1 / s.ratio) if s.ratio else np.inf
    votes = {
        "level": "amplitude" if high > 1.5 or 0.15 < high <= 1.5 else "linear_power",
        "ratio of the bands": "linear_power" if 2.6 < ratio < 12 else "amplitude" if 1.2 < ratio <= 2.6 else "",
        "local variation": "linear_power"
        if s.local_variation > 0.36
        else "amplitude"
        if s.local_variation > 0.12
        else "",
    }
    for units in ("linear_power", "amplitude"):
        cues = tuple(f"{name} says so" for name, vote in votes.items() if vote == units)
        others = [vote for vote in votes.values() if vote and vote != units]
        if len(cues) >= 2 and len(others) <= 1:
            return units, ("no value is negative", *cues)
    return "ambiguous", (
        "no value is negative",
        f"ratio of the bands {ratio:.2f}",
        f"local variation {s.local_variation:.2f}",
    )


def judge(card: Card, statistics: Statistics, where: str, band_order: tuple[str, ...] | None = None) -> Verdict:
    """Hold statistics against the card. `band_order` is the user's statement, standing above the card's."""
    units, cues = recognise_units(statistics)
    if statistics.images < MIN_IMAGES:
        text = f"{statistics.images} images are too few to judge units and band order (at least {MIN_IMAGES})"
        return Verdict(
            statistics=statistics, units=units, cues=cues, refusal=None, warnings=(note("too_few_to_judge", text),)
        )
    refusal, warnings = None, []
    if units != card.signal.units:
        what = (
            f"{where} looks like {UNITS[units]} ({', '.join(cues)}), {card.title} is stated as "
            f"{UNITS[card.signal.units]}"
        )
        todo = "convert it with 10*log10(power) or 20*log10(amplitude), or pass --trust_data if you know better"
        refusal = BenchError(what, todo)
    elif units == "dB":
        bands = band_order or card.signal.bands
        difference = statistics.first_minus_second * (1 if bands[0] == "VV" else -1)
        held = ",".join(bands)
        if difference < 0:
            what = (
                f"{where}: median of VV-VH is {difference:.1f} dB over {statistics.images} images, so {held} "
                "cannot be the order"
            )
            refusal = BenchError(what, f"pass --band_order {','.join(bands[::-1])}, or --trust_data if you know better")
        elif not 2 <= difference <= 12:
            warnings.append(
                note("band_difference", f"median of VV-VH is {difference:.1f} dB, outside the usual 2 to 12 dB")
            )
    return Verdict(statistics=statistics, units=units, cues=cues, refusal=refusal, warnings=tuple(warnings))


def audit(
    card: Card,
    index: Index,
    band_order: tuple[str, ...] | None = None,
    samples: Samples | None = None,
    cache: Path | None = None,
) -> tuple[Verdict, bool]:
    """(verdict over a sample of the data, True where a sampled file carries the synthetic tag).

    `samples` holds what is read for the next pass. What `keep_audit` left in `cache` is not measured again.
    """
    table = _table(samples or Samples(card=card, index=index), cache)
    verdict = judge(card, reduced(table, card.signal.bands), str(index.root), band_order)
    return verdict, bool(ImageStatistics(*table.T).synthetic.any())


def keep_audit(samples: Samples, cache: Path) -> None:
    """Keep what was measured in the cache folder, once nothing speaks against the data any more."""
    rows, kinds = _rows_and_key(samples)
    cached_arrays(cache, samples.index, kinds, lambda missing: {"audit": _table(samples, None)}, count=len(rows))


def _table(samples: Samples, cache: Path | None) -> NDArray[np.float64]:
    """`image_statistics` (n, 12) of the sampled images: measured once a process, or read from the cache folder."""
    if "audit" not in samples.measured:
        rows, kinds = _rows_and_key(samples)
        held = load_arrays(cache, samples.index, kinds, count=len(rows)) if cache else {}
        measured = [] if held else [image_statistics(samples.chip(row)) for row in rows]
        samples.measured.update(held or {"audit": np.array(measured, np.float64)})
    return samples.measured["audit"]


def _rows_and_key(samples: Samples) -> tuple[NDArray[np.int64], dict[str, str]]:
    rows = sample_rows(samples.index)
    return rows, {"audit": f"{pixels_key(samples)} {rows.tolist()}"}


def calibration_note(card: Card) -> str:
    """What can be said of the calibration: only what the card states."""
    return f"calibration is {card.signal.calibration} by the card's statement; pixels cannot show it"


def _median(values: NDArray[np.float64]) -> float:
    """Median of the finite values, NaN without any."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")


def _local_variation(band: NDArray[np.float64]) -> Any:
    """Median of std / mean over 4x4 blocks of one band (H, W)."""
    height, width = (side // 4 * 4 for side in band.shape)
    blocks = band[:height, :width].reshape(height // 4, 4, width // 4, 4)
    mean = blocks.mean(axis=(1, 3))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nanmedian(blocks.std(axis=(1, 3)) / np.where(mean > 0, mean, np.nan)) if (mean > 0).any() else np.nan
